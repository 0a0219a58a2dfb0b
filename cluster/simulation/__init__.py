"""A cluster in virtual time: engines, pools, routers, faults and the provisioner, with the live cluster's policies."""
