"""A cluster in virtual time, engines, pools, routers, faults and all, under the live cluster's policies."""
