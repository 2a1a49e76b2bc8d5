"""One self-contained HTML page about a finished run or an experiment."""
