//! What the launcher called podman with: the only way out of it that has power.

use std::fs;
use std::path::Path;

/// One call of podman.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The words after the program's name.
    pub arguments: Vec<String>,
    /// The environment that it was given.
    pub environment: Vec<String>,
}

impl Call {
    /// The subcommand: the first word that is no option. Global options of the tests are single words.
    #[must_use]
    pub fn subcommand(&self) -> &str {
        self.arguments
            .iter()
            .find(|word| !word.starts_with("--"))
            .map_or("", String::as_str)
    }

    /// The options of the subcommand: what stands between it and `--`.
    ///
    /// # Panics
    /// When there is no `--`.
    #[must_use]
    #[track_caller]
    pub fn options(&self) -> &[String] {
        let (start, end) = (self.start(), self.dashes());
        self.arguments
            .get(start..end)
            .expect("the subcommand is before --")
    }

    /// What follows `--`: for `run`, the image and the program's arguments.
    ///
    /// # Panics
    /// When there is no `--`.
    #[must_use]
    #[track_caller]
    pub fn operands(&self) -> &[String] {
        self.arguments.get(self.dashes() + 1..).unwrap_or_default()
    }

    /// The values of an option in `--name=value` form.
    #[must_use]
    #[track_caller]
    pub fn values(&self, option: &str) -> Vec<&str> {
        self.options()
            .iter()
            .filter_map(|word| word.strip_prefix(option)?.strip_prefix('='))
            .collect()
    }

    fn start(&self) -> usize {
        let subcommand = self
            .arguments
            .iter()
            .position(|word| !word.starts_with("--"));
        subcommand.map_or(0, |at| at + 1)
    }

    #[track_caller]
    fn dashes(&self) -> usize {
        self.arguments
            .iter()
            .position(|word| word == "--")
            .expect("-- before what a client may have sent")
    }
}

/// All calls so far, in no particular order.
#[derive(Clone, Debug)]
pub struct Calls(Vec<Call>);

impl Calls {
    pub(crate) fn read(dir: &Path) -> Self {
        let entries = fs::read_dir(dir).expect("the calls");
        let words = |path: &Path| -> Vec<String> {
            let bytes = fs::read(path).expect("a call");
            let text = String::from_utf8(bytes).expect("UTF-8");
            let mut words: Vec<_> = text.split('\0').map(ToOwned::to_owned).collect();
            words.pop(); // what follows the last NUL
            words
        };
        Self(
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|e| e == "argv"))
                .map(|path| Call {
                    arguments: words(&path),
                    environment: words(&path.with_extension("env")),
                })
                .collect(),
        )
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Call] {
        &self.0
    }

    /// Those of `podman run`.
    #[must_use]
    pub fn runs(&self) -> Vec<&Call> {
        self.0.iter().filter(|c| c.subcommand() == "run").collect()
    }

    /// The one `podman run` for the container with that name.
    ///
    /// # Panics
    /// When there is none, or more than one.
    #[must_use]
    #[track_caller]
    pub fn run_of(&self, name: &str) -> &Call {
        let runs = self.runs_of(name);
        assert_eq!(runs.len(), 1, "runs of {name}: {runs:?}");
        runs[0]
    }

    /// Every `podman run` for the container with that name.
    #[must_use]
    pub fn runs_of(&self, name: &str) -> Vec<&Call> {
        let runs = self.runs().into_iter();
        runs.filter(|c| c.values("--name") == [name]).collect()
    }
}
