"""The operator's routes, under /v1/admin/: decisions of all tenants, curves of the routers, their thresholds."""
