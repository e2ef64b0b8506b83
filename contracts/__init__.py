"""What the services of Hortus may know of each other: roles, the policy table and the event catalogue."""
