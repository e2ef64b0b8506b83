"""What Hortus can do, measured: one script for each area, beside a peer where there is one."""
