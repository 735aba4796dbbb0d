//! Behaviour of the control state.
