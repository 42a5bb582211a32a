// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Frames from one network interface to another on the same wire, and back, past
//! Linux's protocols: numbered, with checked contents.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

/// EtherType for experiments (IEEE 802).
const TYPE: u16 = 0x88b5;
/// Destination, source and type; then the number.
const HEADER: usize = 14;
const NUMBER: usize = 8;
/// Bytes of a frame.
const FRAME: usize = 1000;
/// How long one look for a frame may take.
const PATIENCE: Duration = Duration::from_millis(50);

/// A link-layer address.
pub type Address = [u8; 6];

/// An interface's end of the wire.
#[derive(Debug)]
pub struct End {
    socket: File,
    address: Address,
    buffer: [u8; FRAME],
}

/// The link-layer address of an interface.
fn address(interface: &str) -> Result<Address> {
    let path = format!("/sys/class/net/{interface}/address");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let bytes = text.trim().split(':').map(|b| u8::from_str_radix(b, 16));
    let bytes: Result<Vec<u8>, _> = bytes.collect();
    let bytes = bytes.with_context(|| format!("{path}: {text:?}"))?;
    bytes.try_into().map_err(|_| anyhow!("{path}: {text:?}"))
}

impl End {
    /// The end at `interface`, which must be up.
    ///
    /// # Errors
    /// There is no such interface, or Linux gives no raw access to it.
    pub fn open(interface: &str) -> Result<Self> {
        let index = format!("/sys/class/net/{interface}/ifindex");
        let index = fs::read_to_string(&index).context(index)?;
        let index: i32 = index.trim().parse().context("an interface's index")?;
        let protocol = TYPE.to_be();
        // SAFETY: creates a descriptor; no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol.into()) };
        ensure!(
            fd >= 0,
            "a packet socket: {}",
            std::io::Error::last_os_error()
        );
        // SAFETY: new, and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zero is a valid value of this structure of integers.
        let mut name: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        name.sll_family = libc::AF_PACKET as u16;
        name.sll_protocol = protocol;
        name.sll_ifindex = index;
        let wait = libc::timeval {
            tv_sec: 0,
            tv_usec: PATIENCE.as_micros() as _,
        };
        // SAFETY: the kernel reads the two structures, whose sizes are given.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const name).cast(),
                size_of_val(&name) as u32,
            ) == 0
                && libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVTIMEO,
                    (&raw const wait).cast(),
                    size_of_val(&wait) as u32,
                ) == 0
        };
        let error = std::io::Error::last_os_error();
        ensure!(bound, "a packet socket at {interface}: {error}");
        Ok(Self {
            socket: File::from(socket),
            address: address(interface)?,
            buffer: [0; FRAME],
        })
    }

    /// Its interface's.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Sends frame `number`.
    ///
    /// # Errors
    /// Linux refuses.
    pub fn send(&mut self, number: u64, to: Address) -> Result<()> {
        let mut frame = [0; FRAME];
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&self.address);
        frame[12..HEADER].copy_from_slice(&TYPE.to_be_bytes());
        fill(&mut frame[HEADER..], number);
        let sent = self.socket.write(&frame);
        let sent = sent.with_context(|| format!("sending frame {number}"))?;
        ensure!(sent == FRAME, "sent {sent} bytes of frame {number}");
        Ok(())
    }

    /// The number of the next frame, whose contents are right; none if none comes
    /// for a while.
    ///
    /// # Errors
    /// Linux refuses, or the contents are wrong.
    pub fn receive(&mut self) -> Result<Option<u64>> {
        let bytes = match self.socket.read(&mut self.buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(None),
            other => other.context("receiving a frame")?,
        };
        ensure!(bytes == FRAME, "a frame of {bytes} bytes");
        let body = &self.buffer[HEADER..];
        let mut number = [0; NUMBER];
        number.copy_from_slice(&body[..NUMBER]);
        let number = u64::from_le_bytes(number);
        let mut expected = [0; FRAME - HEADER];
        fill(&mut expected, number);
        ensure!(body == expected, "frame {number} has wrong contents");
        Ok(Some(number))
    }

    /// Receives a frame, and sends it back, if there is one.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn echo(&mut self) -> Result<()> {
        let Some(number) = self.receive()? else {
            return Ok(());
        };
        let mut to = [0; 6];
        to.copy_from_slice(&self.buffer[6..12]);
        self.send(number, to)
    }
}

/// What Linux counts of interfaces that tells where a frame was lost.
pub fn counters(interfaces: &[&str]) -> String {
    const COUNTERS: [&str; 6] = [
        "tx_packets",
        "tx_dropped",
        "rx_packets",
        "rx_dropped",
        "rx_errors",
        "rx_missed_errors",
    ];
    let mut text = String::new();
    for interface in interfaces {
        text += &format!("{interface}:");
        for name in COUNTERS {
            let path = format!("/sys/class/net/{interface}/statistics/{name}");
            let count = fs::read_to_string(&path).unwrap_or_default();
            text += &format!(" {name} {}", count.trim());
        }
        text += "; ";
    }
    // The seventh of each line's numbers: receive buffers in use.
    text + &fs::read_to_string("/proc/net/packet").unwrap_or_default()
}

/// The body of frame `number`.
fn fill(body: &mut [u8], number: u64) {
    let (head, rest) = body.split_at_mut(NUMBER);
    head.copy_from_slice(&number.to_le_bytes());
    fastrand::Rng::with_seed(number).fill(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_differ() {
        let body = |number| {
            let mut body = [0; 64];
            fill(&mut body, number);
            body
        };
        assert_eq!(body(1), body(1));
        assert_ne!(body(1)[NUMBER..], body(2)[NUMBER..]);
    }
}
