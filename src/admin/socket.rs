//! Where the operators' port listens: on an address, or on a Unix socket that a file's permissions guard.
//!
//! A socket's file that nobody listens at any more is replaced; one at which somebody does, or a file of another kind, is
//! an error that names it. The file is not removed at the end: the process that takes this one's place serves it.

use crate::config::{Admin, AdminAddress, FileMode};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// How many connections wait in the kernel for a place.
const BACKLOG: i32 = 128;

/// Why the operators' port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for the admin port (`admin.{key}`): {}", reason(.source))]
pub struct BindError {
    /// The address.
    pub address: AdminAddress,
    /// The key that it stands at.
    pub key: &'static str,
    /// What the system said.
    pub source: io::Error,
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process has the address; is pathloom running already?".to_owned(),
        _ => error.to_string(),
    }
}

/// The operators' port, open and not yet served.
#[derive(Debug)]
pub enum AdminListener {
    /// On an address.
    Tcp(TcpListener),
    /// On a Unix socket.
    Unix(UnixListener),
}

impl AdminListener {
    /// Opens it.
    ///
    /// # Errors
    /// When the address cannot be had; the error names it.
    pub fn bind(admin: &Admin) -> Result<Self, BindError> {
        let bound = match &admin.listen {
            AdminAddress::Tcp(address) => tcp(*address).map(Self::Tcp),
            AdminAddress::Unix(path) => unix(path, admin.mode).map(Self::Unix),
        };
        bound.map_err(|source| BindError { address: admin.listen.clone(), key: "listen", source })
    }

    /// Opens the address that answers for the metrics alone.
    ///
    /// # Errors
    /// When the address cannot be had; the error names it.
    pub fn bind_metrics(address: SocketAddr) -> Result<Self, BindError> {
        let failed = |source| BindError { address: AdminAddress::Tcp(address), key: "metrics", source };
        tcp(address).map(Self::Tcp).map_err(failed)
    }

    /// Takes one over that another process opened, if it is where it should be.
    #[must_use]
    pub fn adopt(socket: OwnedFd, admin: &Admin) -> Option<Self> {
        match &admin.listen {
            AdminAddress::Tcp(address) => Self::adopt_tcp(socket, *address),
            AdminAddress::Unix(path) => {
                let listener = UnixListener::from(socket);
                let usable = listener.local_addr().is_ok_and(|actual| actual.as_pathname() == Some(path));
                let permit = || std::fs::set_permissions(path, std::fs::Permissions::from_mode(admin.mode.0));
                let taken = usable && permit().is_ok() && listener.set_nonblocking(true).is_ok();
                taken.then_some(Self::Unix(listener))
            }
        }
    }

    /// As `adopt`, of an address.
    #[must_use]
    pub fn adopt_tcp(socket: OwnedFd, address: SocketAddr) -> Option<Self> {
        let listener = TcpListener::from(socket);
        let usable = listener.local_addr().is_ok_and(|actual| actual == address);
        (usable && listener.set_nonblocking(true).is_ok()).then_some(Self::Tcp(listener))
    }

    /// The address in fact, which differs from the configured one where that has port 0.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<AdminAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(AdminAddress::Tcp),
            Self::Unix(listener) => {
                let address = listener.local_addr()?;
                Ok(AdminAddress::Unix(address.as_pathname().unwrap_or(Path::new("")).to_owned()))
            }
        }
    }

    /// Another handle on it.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }
}

impl From<AdminListener> for OwnedFd {
    fn from(listener: AdminListener) -> Self {
        match listener {
            AdminListener::Tcp(listener) => listener.into(),
            AdminListener::Unix(listener) => listener.into(),
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn unix(path: &Path, mode: FileMode) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        // Whoever may not ask does not know whether somebody is there.
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(error) => return Err(error),
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        },
        Err(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Nobody can connect before it listens, and by then the permissions are those that were asked for.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode.0))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(OwnedFd::from(socket).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &Path, mode: u32) -> Admin {
        Admin { listen: AdminAddress::Unix(path.to_owned()), mode: FileMode(mode), metrics: None }
    }

    #[test]
    fn a_socket_has_the_permissions_that_were_asked_for_and_replaces_one_that_nobody_listens_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        for mode in [0o600, 0o660, 0o666] {
            let listener = AdminListener::bind(&at(&path, mode)).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            assert_eq!(listener.address().unwrap(), AdminAddress::Unix(path.clone()));
            let error = AdminListener::bind(&at(&path, mode)).unwrap_err().to_string();
            let wanted = format!("cannot listen on unix:{} for the admin port", path.display());
            assert!(error.starts_with(&wanted) && error.contains("is pathloom running already?"), "{error}");
        }
    }

    #[test]
    fn no_file_is_lost_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let error = AdminListener::bind(&at(&path, 0o600)).unwrap_err().to_string();
        assert!(error.ends_with("there is a file that is no socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn what_another_process_opened_is_taken_over_where_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a.sock"), folder.path().join("b.sock"));
        let loopback = |port| Admin { listen: AdminAddress::Tcp(([127, 0, 0, 1], port).into()), ..Admin::default() };
        let socket = AdminListener::bind(&at(&path, 0o600)).unwrap();
        let port = AdminListener::bind(&loopback(0)).unwrap();
        let AdminAddress::Tcp(address) = port.address().unwrap() else { panic!("a port") };
        let give = |listener: &AdminListener| OwnedFd::from(listener.try_clone().unwrap());
        assert!(AdminListener::adopt(give(&socket), &at(&path, 0o660)).is_some());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(AdminListener::adopt(give(&port), &loopback(address.port())).is_some());
        assert!(AdminListener::adopt(give(&socket), &at(&other, 0o600)).is_none());
        assert!(AdminListener::adopt(give(&socket), &loopback(address.port())).is_none());
        assert!(AdminListener::adopt(give(&port), &at(&path, 0o600)).is_none());
    }
}
