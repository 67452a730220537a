//! What the device knows of its own state: types that stages report into, and the sensors of the operating system.
