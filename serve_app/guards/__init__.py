"""Guards: checks of what comes in and of what goes out, and the detection of personal data that placement uses."""
