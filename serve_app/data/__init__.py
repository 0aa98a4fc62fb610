"""The data that routers and cascades are fitted on: schema, readers, validation, splitting, collection."""
