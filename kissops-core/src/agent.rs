//! For a bot that runs under a supervisor: tells it that it is ready, alive, stopping.
