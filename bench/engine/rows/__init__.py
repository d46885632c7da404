"""One file for each kind of row: what is measured, and what it must come to. A row returns Checks and touches no file."""
