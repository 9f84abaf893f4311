//! The YAML's keys of running the process itself: the operators' port, threads, the end, and what the process may do.

use super::Auto;
use crate::config::units::{Timespan, UnitError, Written, written};
use crate::config::words::{SECTION_OR_TEXT, or_text};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The operators' port: an address, or a section.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(transform = or_text)]
pub struct Admin {
    /// The address of the admin port, loopback unless said otherwise; or a Unix socket, `unix:/run/pathloom/admin.sock`.
    pub listen: AdminAddress,
    /// Who may use the Unix socket, as the permissions of its file: `0600` its owner alone, `0660` its group too.
    pub mode: FileMode,
    /// A further address that answers for `/metrics`, `/live` and `/ready` alone, for those who may see nothing else.
    pub metrics: Option<SocketAddr>,
}

impl Default for Admin {
    fn default() -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 9900));
        Self { listen: AdminAddress::Tcp(loopback), mode: FileMode(0o600), metrics: None }
    }
}

/// The process: its threads and how it leaves. Read once, at start: a reload that changes it says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Process {
    /// How many threads serve requests, each with a runtime of its own: `auto` (one a core) or a number.
    pub threads: Auto<usize>,
    /// How long requests in flight may take to finish after SIGTERM.
    pub drain: Timespan,
    /// A Unix socket by which the next process takes this one's place: one that is started with the same path takes the
    /// listening sockets over, and this one leaves once the other serves. No connection is refused between.
    pub handover: Option<PathBuf>,
    /// What the process may do once it has read its configuration: `least` gives up every capability that it does not need and system calls that no proxy makes; `inherited` keeps what it was started with.
    pub privileges: Privileges,
}

impl Default for Process {
    fn default() -> Self {
        let drain = Timespan(std::time::Duration::from_secs(25));
        Self { threads: Auto::Auto, drain, handover: None, privileges: Privileges::Least }
    }
}

/// What the process may do once it has read its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Privileges {
    /// What it needs, and nothing else.
    #[default]
    Least,
    /// What it was started with.
    Inherited,
}

/// Where the operators' port is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket, by its path.
    Unix(PathBuf),
}

/// What a Unix socket's address begins with.
const UNIX: &str = "unix:";

impl FromStr for AdminAddress {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return Ok(Self::Unix(path.into()));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            UnitError::new(
                format!("`{text}` is neither an IP address and a port nor a Unix socket"),
                "write one, as in `127.0.0.1:9900` or `unix:/run/pathloom/admin.sock`",
            )
        })
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// Permissions of a file, written in octal: `0600`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl FromStr for FileMode {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let octal = matches!(text.len(), 3 | 4).then(|| u32::from_str_radix(text, 8).ok()).flatten();
        octal.filter(|mode| *mode <= 0o777 && text.bytes().all(|b| b.is_ascii_digit())).map(Self).ok_or_else(|| {
            UnitError::new(
                format!("`{text}` is not the permissions of a file"),
                "write three octal digits after a 0, as in `0600` or `0660`",
            )
        })
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

written!(AdminAddress, "an IP address and a port, or a Unix socket", r"^unix:.|:\d+$", deserialize_str);
written!(FileMode, "permissions such as `0600`", r"^0?[0-7]{3}$", deserialize_str);

impl<'de> Deserialize<'de> for Admin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct(SECTION_OR_TEXT, &["listen", "mode", "metrics"], AdminVisitor)
    }
}

struct AdminVisitor;

impl<'de> Visitor<'de> for AdminVisitor {
    type Value = Admin;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address, or a section with `listen`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Admin, E> {
        Ok(Admin { listen: text.parse().map_err(E::custom)?, ..Admin::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Admin, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Section {
            listen: AdminAddress,
            mode: FileMode,
            metrics: Option<SocketAddr>,
        }
        impl Default for Section {
            fn default() -> Self {
                let Admin { listen, mode, metrics } = Admin::default();
                Self { listen, mode, metrics }
            }
        }
        let Section { listen, mode, metrics } = Section::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Admin { listen, mode, metrics })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_str;

    #[test]
    fn the_operators_port_is_an_address_or_a_socket_with_its_permissions() {
        let admin = |text: &str| load_str(text, "t.yaml").map(|config| config.admin);
        let socket = AdminAddress::Unix("/run/p/a.sock".into());
        assert_eq!(admin("admin: unix:/run/p/a.sock").unwrap(), Admin { listen: socket.clone(), ..Admin::default() });
        for mode in ["0660", "660", "\"0660\""] {
            let read = admin(&format!("admin: {{ listen: unix:/run/p/a.sock, mode: {mode} }}")).unwrap();
            assert_eq!(read, Admin { listen: socket.clone(), mode: FileMode(0o660), metrics: None }, "{mode}");
        }
        let both = admin("admin: { metrics: 0.0.0.0:9902 }").unwrap();
        assert_eq!(both, Admin { metrics: "0.0.0.0:9902".parse().ok(), ..Admin::default() });
        assert_eq!(admin("admin: 127.0.0.1:9901").unwrap().listen.to_string(), "127.0.0.1:9901");
        for (wrong, word) in [
            ("admin: { listen: here }", "`here` is neither an IP address and a port nor a Unix socket"),
            ("admin: nowhere", "`nowhere` is neither"),
            ("admin: { mode: 0680 }", "`0680` is not the permissions of a file"),
            ("admin: { mode: 1777 }", "`1777` is not the permissions of a file"),
            ("admin: { mode: 6 }", "`6` is not the permissions of a file"),
            ("admin: unix:admin.sock", "is not a path from the root"),
            ("admin: { lisen: 127.0.0.1:1 }", "did you mean `listen`?"),
        ] {
            let error = admin(wrong).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let long = format!("admin: unix:/{}", "a".repeat(107));
        assert!(admin(&long).unwrap_err().to_string().contains("too long for a Unix socket"));
        assert!(admin(&long[..long.len() - 1]).is_ok());
    }
}
