"""Settings of a user that differ from ours wherever they can: in them the golden notebooks run, and show what they show in ours."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

STARTUP = """
print("a start-up file that talks")
import locale, os, pathlib, warnings
from pylab import *
import pandas as pd
locale._override_localeconv = {"decimal_point": ",", "thousands_sep": "."}  # as in German, which a machine need not have
os.umask(0o077)
warnings.simplefilter("ignore")
seterr(all="raise")
set_printoptions(precision=1)
pd.set_option("display.max_rows", 2, "display.max_columns", 2, "display.max_colwidth", 5, "display.precision", 1, "display.html.border", 3)
pd.set_option("display.notebook_repr_html", False, "display.html.table_schema", True, "display.float_format", "{:.1f}".format)
pd.set_option("future.infer_string", False)
get_ipython().run_line_magic("matplotlib", "inline")
get_ipython().run_line_magic("config", "InlineBackend.figure_formats = ['svg', 'retina']")
rcParams["figure.dpi"] = 50
load = recording = findings = 3
warnings.simplefilter("error")
warnings.simplefilter("ignore", DeprecationWarning)  # with these as errors no kernel starts on Python 3.13
pathlib.Path(os.environ["IPYTHONDIR"], "read").touch()
"""
KERNEL_CONFIG = """
c.InteractiveShell.ast_node_interactivity = "all"
c.InlineBackend.rc = {"figure.figsize": (1, 1)}
c.InteractiveShellApp.exec_lines = ["summary = 'of an earlier day'"]
"""
MATPLOTLIBRC = """
text.usetex: True
font.family: No Such Font
font.size: 30
figure.facecolor: black
axes.facecolor: black
savefig.facecolor: black
text.color: white
axes.labelcolor: white
axes.prop_cycle: cycler(color=['red'])
axes.formatter.use_locale: True
axes.spines.top: True
lines.linewidth: 9
savefig.bbox: tight
savefig.dpi: 30
figure.dpi: 30
figure.autolayout: True
nosuch.key: 3
"""
ENVIRONMENT = {
    "MPLBACKEND": "TkAgg",
    "TZ": "Asia/Kathmandu",
    "LC_ALL": "C",
    "COLUMNS": "20",
    "LINES": "5",
    "NO_COLOR": "1",
    "PYTHONHASHSEED": "7",
    "PYTHONWARNINGS": "error,ignore::DeprecationWarning",
    "HOME": "/proc/none",
}


def written(folder: Path) -> Mapping[str, str]:
    """Write the user's files into a folder, and return the environment of somebody who has them."""
    profile = folder / "profile_default"
    (profile / "startup").mkdir(parents=True)
    (profile / "startup" / "00.py").write_text(STARTUP)
    (profile / "ipython_kernel_config.py").write_text(KERNEL_CONFIG)
    (folder / "matplotlibrc").write_text(MATPLOTLIBRC)
    return {**ENVIRONMENT, "IPYTHONDIR": str(folder), "MATPLOTLIBRC": str(folder / "matplotlibrc"), "JUPYTER_RUNTIME_DIR": str(folder)}


@contextlib.contextmanager
def applied(environment: Mapping[str, str]) -> Iterator[None]:
    """Have what is started meanwhile start with that environment; its start-up file must be read to the end."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert Path(environment["IPYTHONDIR"], "read").exists()
