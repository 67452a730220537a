//! One SQLite database, one writer: incidents, clips, the outbox, audit. An incident and its outbox row are one
//! transaction.
