"""The HAProxy in front of the Gateways: Serve's configuration made safe, and a process that keeps it alive.

Serve starts the program at RAY_SERVE_HAPROXY_BINARY_PATH where it would start HAProxy. That program is `jethro-front`
(`supervisor.main`). Standard library only: it is started again at every change of the Gateways.
"""
