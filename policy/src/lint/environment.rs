//! Environment by which a program takes code from elsewhere.

use super::Collector;
use crate::kinds::Kind;
use crate::pattern::{Part, Pattern, Token};
use crate::places::is_above;
use crate::rule::{Container, Rule};
use crate::rule_table::LaunchTable;

/// Environment by which a loader, an interpreter or a library takes code or a configuration. `*` at the end is any rest.
pub(super) const ENVIRONMENT: &[&str] = &[
    "LD_*",
    "LDR_*",
    "LIBPATH",
    "SHLIB_PATH",
    "GCONV_PATH",
    "LOCPATH",
    "NLSPATH",
    "GLIBC_TUNABLES",
    "MALLOC_*",
    "GETCONF_DIR",
    "HOSTALIASES",
    "LOCALDOMAIN",
    "RES_OPTIONS",
    "RESOLV_*",
    "NIS_PATH",
    "TERMCAP",
    "TERMINFO*",
    "TERMPATH",
    "PATH",
    "IFS",
    "ENV",
    "BASH_ENV",
    "BASH_FUNC_*",
    "BASHOPTS",
    "SHELLOPTS",
    "CDPATH",
    "GLOBIGNORE",
    "FPATH",
    "ZDOTDIR",
    "PS1",
    "PS4",
    "PROMPT_COMMAND",
    "SHELL",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "BROWSER",
    "LESSOPEN",
    "LESSCLOSE",
    "MANPAGER",
    "PYTHON*",
    "PERL*",
    "RUBY*",
    "GEM_*",
    "BUNDLE_*",
    "NODE_*",
    "NPM_CONFIG_*",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "LUA_*",
    "TCLLIBPATH",
    "GUILE_*",
    "ERL_*",
    "R_PROFILE*",
    "JULIA_*",
    "AWKPATH",
    "AWKLIBPATH",
    "CLASSPATH",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "JAVA_OPTS",
    "DOTNET_*",
    "CORECLR_*",
    "COR_*",
    "GIT_*",
    "SSH_ASKPASS",
    "OPENSSL_*",
    "KRB5_*",
    "SASL_*",
    "LIBGL_DRIVERS_PATH",
    "GTK_*",
    "GIO_*",
    "GST_*",
    "QT_*",
    "XDG_CONFIG_*",
];

/// Whether a loader or an interpreter takes code from an environment entry of that name.
pub(super) fn is_loaders(name: &str) -> bool {
    ENVIRONMENT
        .iter()
        .any(|known| match known.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == *known,
        })
}

/// The entries that a request may ask for.
pub(super) fn check_asked(rule: &Rule, table: &LaunchTable, collector: &mut Collector<'_>) {
    let patterns = rule.environment.entries.iter().zip(&table.env);
    let patterns = patterns.flat_map(|(entry, written)| {
        let patterns = entry.alternatives.iter().flatten();
        patterns.zip(written.alternatives.iter().flatten())
    });
    for (pattern, text) in patterns {
        let Some((name, value)) = pattern.head().split_once('=') else {
            continue;
        };
        let listed = pattern.tokens.iter().flat_map(|token| match token {
            Token::Any(Kind::One(options)) | Token::Bind(_, Kind::One(options)) => &**options,
            _ => &[],
        });
        let mut values = listed.map(|option| &**option).chain([value]);
        let label = if is_chosen(pattern) {
            "the agent says from where"
        } else if values.any(|value| is_written(value, &rule.container)) {
            "beneath what the agent may write"
        } else {
            continue;
        };
        if is_loaders(name) {
            collector.add("loader-environment", Some(table), &text.place, label);
        }
    }
}

/// The entries that the rule sets.
pub(super) fn check_set(rule: &Rule, table: &LaunchTable, collector: &mut Collector<'_>) {
    let written = table.container.iter().flat_map(|c| &c.environment);
    for (template, text) in rule.container.environment.iter().zip(written) {
        let Some((name, value)) = template.head().split_once('=') else {
            continue;
        };
        let chosen = template
            .parts
            .iter()
            .any(|part| matches!(part, Part::Value(_)));
        let label = if chosen {
            "has a value of the request"
        } else if is_written(value, &rule.container) {
            "beneath what the agent may write"
        } else {
            continue;
        };
        if is_loaders(name) {
            collector.add("loader-environment", Some(table), &text.place, label);
        }
    }
}

/// Whether a request chooses the value: one of a list of the operator's does not count.
fn is_chosen(pattern: &Pattern) -> bool {
    pattern.tokens.iter().any(|token| match token {
        Token::Literal(_) => false,
        Token::Any(kind) | Token::Bind(_, kind) => !matches!(kind, Kind::One(_)),
        Token::Same(_) => true,
    })
}

/// Whether a path in the value lies beneath a mount that is not the operator's alone.
fn is_written(value: &str, container: &Container) -> bool {
    let mut paths = value
        .split([':', ';', ',', ' ', '='])
        .filter_map(|word| word.find('/').and_then(|at| word.get(at..)));
    paths.any(|path| {
        let mut mounts = container.mounts.iter().filter(|mount| !mount.operators);
        mounts.any(|mount| {
            let head = mount.target.head();
            let directory = match mount.target.literal() {
                Some(target) => target,
                None => head.rsplit_once('/').map_or("", |(directory, _)| directory),
            };
            is_above(directory, path)
        })
    })
}
