"""What others read of recorded runs: two pages, a comment, JUnit XML and metrics. They measure and judge nothing."""
