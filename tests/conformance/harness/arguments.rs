//! The command line, as other test programs take it.

use libtest_mimic::Arguments;

/// How many trials run at once, unless the command line says otherwise.
const TEST_THREADS: usize = 4;
/// Options whose value is the argument after them.
const WITH_VALUE: [&str; 6] = ["--test-threads", "--logfile", "--skip", "--color", "--format", "-Z"];

/// What to run, and how.
pub(crate) struct CommandLine {
    pub(crate) arguments: Arguments,
    /// A trial is run if its name contains one of these, or if there are none. The library takes
    /// one filter, and other test programs take several.
    filters: Vec<String>,
}

impl CommandLine {
    pub(crate) fn read() -> Self {
        let (mut options, mut filters, mut is_value) = (Vec::new(), Vec::new(), false);
        for (at, argument) in std::env::args().enumerate() {
            if at == 0 || is_value || argument.starts_with('-') {
                is_value = at > 0 && !is_value && WITH_VALUE.contains(&argument.as_str());
                options.push(argument);
            } else {
                filters.push(argument);
            }
        }
        let mut arguments = Arguments::from_iter(options);
        arguments.test_threads = arguments.test_threads.or(Some(TEST_THREADS));
        Self { arguments, filters }
    }

    pub(crate) fn chooses(&self, trial: &str) -> bool {
        let fits = |filter: &String| if self.arguments.exact { trial == filter } else { trial.contains(filter) };
        self.filters.is_empty() || self.filters.iter().any(fits)
    }
}
