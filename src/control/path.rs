//! Where in an object something is: a field path as the API server writes it.

use std::fmt;

/// `spec.rules[0].backendRefs[1].port`, in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldPath(Vec<Step>);

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    Field(Box<str>),
    Item(usize),
}

impl FieldPath {
    /// A path of fields, such as `["spec", "hostnames"]`.
    pub fn of<'a>(fields: impl IntoIterator<Item = &'a str>) -> Self {
        Self(fields.into_iter().map(|field| Step::Field(field.into())).collect())
    }

    /// The path one field further in.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        self.with(Step::Field(name.into()))
    }

    /// The path one list item further in.
    #[must_use]
    pub fn item(&self, index: usize) -> Self {
        self.with(Step::Item(index))
    }

    /// The steps from the object's root.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = Vec::with_capacity(self.0.len() + 1);
        steps.extend_from_slice(&self.0);
        steps.push(step);
        Self(steps)
    }
}

impl FromIterator<Step> for FieldPath {
    fn from_iter<T: IntoIterator<Item = Step>>(steps: T) -> Self {
        Self(steps.into_iter().collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if index == 0 => write!(f, "{name}")?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Item(item) => write!(f, "[{item}]")?,
            }
        }
        Ok(())
    }
}

/// Something wrong with a field of an object, in words for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Empty: the object as a whole.
    pub path: FieldPath,
    /// Lower case, without the path.
    pub message: String,
    /// Whether the field's name is at fault, rather than its value.
    pub at_name: bool,
}

impl Fault {
    pub fn new(path: FieldPath, message: impl Into<String>) -> Self {
        Self {
            path,
            message: message.into(),
            at_name: false,
        }
    }

    /// The field's name is at fault.
    pub fn of_name(path: FieldPath, message: impl Into<String>) -> Self {
        Self {
            path,
            message: message.into(),
            at_name: true,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.0.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}
