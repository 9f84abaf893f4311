//! Giving rules to the kernel, through the programs that know how: `nft`, and `ip` where TPROXY is used.

use super::Rules;
use super::rules::{ROUTES, TABLE, held, replaced};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::IpAddr;
use std::process::{Command, Output, Stdio};

/// Rules could not be given to the kernel, or read from it.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A program is missing.
    #[error("the program `{program}` is missing: install it (`apt-get install {package}`)")]
    Missing {
        /// Which.
        program: &'static str,
        /// Where Debian has it.
        package: &'static str,
    },
    /// It may not do that.
    #[error("`{program}` may not change the network: this needs CAP_NET_ADMIN, so run it as root, or with `sudo`")]
    NotAllowed {
        /// Which.
        program: &'static str,
    },
    /// It failed.
    #[error("`{program}` failed: {said}")]
    Failed {
        /// Which.
        program: &'static str,
        /// What it said.
        said: String,
    },
}

/// Installs rules in the place of those that were installed before.
///
/// # Errors
/// When a program is missing, or the right, or the kernel refuses them; what was installed before stays then.
pub fn install(rules: &Rules) -> Result<(), CaptureError> {
    nft(&["-f", "-"], &rules.nft)?;
    forget_routes();
    for command in &rules.ip {
        let args: Vec<&str> = command.split_whitespace().collect();
        if let Err(error) = run("ip", "iproute2", &args, "") {
            // Half of it would swallow connections.
            let _ = remove();
            return Err(error);
        }
    }
    Ok(())
}

/// Captures what these addresses open, and nobody else, where pods are looked for (`capture.pods: annotated`); each for two
/// minutes from now on. All of it at once.
///
/// # Errors
/// As [`install`], and when the rules are not installed.
pub fn hold(addresses: &BTreeSet<IpAddr>) -> Result<(), CaptureError> {
    nft(&["-f", "-"], &held(addresses)).map(drop)
}

/// Removes what was installed; nothing where nothing is.
///
/// # Errors
/// As [`install`].
pub fn remove() -> Result<(), CaptureError> {
    nft(&["-f", "-"], &replaced())?;
    forget_routes();
    Ok(())
}

/// What is installed, as the kernel has it; none where nothing is.
///
/// # Errors
/// As [`install`].
pub fn show() -> Result<Option<String>, CaptureError> {
    let tables = nft(&["list", "tables"], "")?;
    if !tables.lines().any(|line| line.trim() == format!("table {TABLE}")) {
        return Ok(None);
    }
    let mut all = vec!["list", "table"];
    all.extend(TABLE.split(' '));
    let mut shown = nft(&all, "")?;
    for version in ["-4", "-6"] {
        // Without `ip` nothing was installed with it.
        let rules = run("ip", "iproute2", &[version, "rule", "show", "table", &ROUTES.to_string()], "");
        rules.unwrap_or_default().lines().for_each(|rule| shown.push_str(&format!("ip {version} rule {rule}\n")));
    }
    Ok(Some(shown))
}

/// Whether connections may be marked.
///
/// # Errors
/// When they may not: the reason.
pub fn may_mark(mark: u32) -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::STREAM, None)?.set_mark(mark)
}

/// Whether a listener may take connections that were meant for other addresses (TPROXY).
///
/// # Errors
/// When it may not: the reason.
pub fn may_be_transparent() -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::STREAM, None)?.set_ip_transparent_v4(true)
}

/// The rules and routes for TPROXY, as often as they are there.
fn forget_routes() {
    let table = ROUTES.to_string();
    for version in ["-4", "-6"] {
        // It fails once there is none left. Nobody has this many.
        let forget = || run("ip", "iproute2", &[version, "rule", "del", "lookup", &table], "");
        (0..16).take_while(|_| forget().is_ok()).for_each(drop);
        let _ = run("ip", "iproute2", &[version, "route", "flush", "table", &table], "");
    }
}

fn nft(args: &[&str], input: &str) -> Result<String, CaptureError> {
    run("nft", "nftables", args, input)
}

/// Runs a program and gives back what it wrote.
fn run(program: &'static str, package: &'static str, args: &[&str], input: &str) -> Result<String, CaptureError> {
    let ran = || -> io::Result<Output> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        // One that does not read it to its end says why on the other side.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    };
    let output = ran().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CaptureError::Missing { program, package },
        _ => CaptureError::Failed { program, said: error.to_string() },
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("Operation not permitted") || said.contains("you must be root") {
        return Err(CaptureError::NotAllowed { program });
    }
    Err(CaptureError::Failed { program, said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_is_named_with_its_remedy() {
        let error = run("pathloom-no-such-program", "nftables", &[], "").unwrap_err().to_string();
        assert_eq!(error, "the program `pathloom-no-such-program` is missing: install it (`apt-get install nftables`)");
        let failed = run("false", "coreutils", &[], "").unwrap_err();
        assert!(matches!(failed, CaptureError::Failed { program: "false", .. }));
    }
}
