//! The command line's answers: one module per subcommand, each with its `Args` and a `run` that returns the exit code.
//!
//! `main` parses and dispatches. Commands may look at everything; nothing looks at them. They write to stdout through
//! [`output`] and never through `tracing`.

pub mod output;
