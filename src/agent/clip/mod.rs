//! The video of incidents: what to cut (`plan`, pure), how it is written (`mp4`), and the worker that does it.
