"""What tenants may use: quotas that several routers draw from one account, and order in the queue."""
