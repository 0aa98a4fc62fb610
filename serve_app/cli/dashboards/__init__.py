"""`jethro dashboards`: what an operator sees in Grafana."""
