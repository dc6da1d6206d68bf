"""Workers behind `concurrent.futures`: processes of this machine, or those of a Dask cluster."""
