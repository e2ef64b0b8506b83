"""The node agent: it takes leases at the gateway and runs programs in sandboxes; it knows no database and no broker of facts."""
