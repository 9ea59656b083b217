//! The CEL rules of a schema (`x-kubernetes-validations`).

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};

use cel::{Context, Env, ExecutionError, Program, extensions, extractors::This};
use serde_json::Value;

/// One rule, compiled.
pub(super) struct Rule {
    program: Program,
    message: String,
}

impl Rule {
    /// Compiles one entry of `x-kubernetes-validations`.
    pub(super) fn compile(entry: &Value) -> Result<Self, String> {
        let source = entry.get("rule").and_then(Value::as_str).ok_or("a validation without rule")?;
        let program = env()
            .compile(source)
            .map_err(|error| format!("CEL rule {source:?}: {error}"))?;
        let message = entry.get("message").and_then(Value::as_str);
        Ok(Self {
            program,
            message: message.map_or_else(|| format!("failed rule: {source}"), str::to_owned),
        })
    }

    /// The rule's message if `value` breaks it.
    pub(super) fn broken_by(&self, value: &Value) -> Option<String> {
        let mut context = Context::with_env(Arc::clone(env()));
        context.add_variable_from_value("self", converted(value));
        if let Err(error) = context.add_function("sum", sum) {
            return Some(format!("{}: {error}", self.message));
        }
        match self.program.execute(&context) {
            Ok(cel::Value::Bool(true)) => None,
            Ok(cel::Value::Bool(false)) => Some(self.message.clone()),
            Ok(other) => Some(format!("{}: not true or false, but {other:?}", self.message)),
            Err(error) => Some(format!("{}: {error}", self.message)),
        }
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").field("message", &self.message).finish_non_exhaustive()
    }
}

fn env() -> &'static Arc<Env> {
    static ENV: OnceLock<Arc<Env>> = OnceLock::new();
    ENV.get_or_init(|| {
        let mut env = Env::stdlib();
        // Kubernetes has the functions on strings too. Were one declared already, a rule that uses it would not compile.
        let _ = env.add_extension(extensions::strings);
        Arc::new(env)
    })
}

/// `sum()` of a list of whole numbers: one of the functions that Kubernetes adds to CEL.
fn sum(This(list): This<Arc<Vec<cel::Value>>>) -> Result<i64, ExecutionError> {
    let mut total = 0_i64;
    for item in list.iter() {
        match item {
            cel::Value::Int(number) => total = total.saturating_add(*number),
            other => {
                return Err(ExecutionError::function_error(
                    "sum",
                    format!("not a whole number: {other:?}"),
                ));
            }
        }
    }
    Ok(total)
}

fn converted(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => cel::Value::Int(number),
            None => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => cel::Value::from(text.as_str()),
        Value::Array(items) => cel::Value::from(items.iter().map(converted).collect::<Vec<_>>()),
        Value::Object(fields) => {
            let fields: HashMap<String, cel::Value> =
                fields.iter().map(|(name, value)| (name.clone(), converted(value))).collect();
            cel::Value::from(fields)
        }
    }
}
