"""The data that routers and cascades learn from: schema, readers, validation, splitting."""
