//! The state against a model, and the properties that replication rests on.
