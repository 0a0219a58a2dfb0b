"""Keys of tenants and the ledger of what they use: on disk, or on a server that several machines share."""
