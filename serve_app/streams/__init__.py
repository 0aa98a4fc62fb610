"""Named streams as a service: the Learner's durable state, and how Gateways act on it. Nothing here knows Ray."""
