//! Waking a task at an instant, finer than the millisecond of the runtime's own timer.

use anyhow::Result;
use std::time::Instant;

/// A timer of the kernel that wakes the runtime as a socket does: no thread of its own competes with what is measured.
#[cfg(target_os = "linux")]
pub(crate) struct Alarm {
    /// The read end of a timer behaves like that of a pipe, for which the runtime has a safe type.
    rings: tokio::net::unix::pipe::Receiver,
    timer: std::os::fd::OwnedFd,
}

#[cfg(target_os = "linux")]
impl Alarm {
    pub(crate) fn new() -> Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self {
            rings: tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(timer.try_clone()?)?,
            timer,
        })
    }

    /// Waits until `due`.
    pub(crate) async fn ring_at(&mut self, due: Instant) -> Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        use tokio::io::AsyncReadExt;
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let alarm = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: left.as_secs().try_into()?,
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &alarm)?;
        // A ring is 8 bytes. Room for more makes it a short read, after which the runtime waits for the next event.
        let _ring = self.rings.read(&mut [0; 16]).await?;
        Ok(())
    }
}

/// The runtime's own timer: arrivals come a millisecond's worth at a time, to every subject alike.
#[cfg(not(target_os = "linux"))]
pub(crate) struct Alarm;

#[cfg(not(target_os = "linux"))]
impl Alarm {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self)
    }

    /// Waits until `due`.
    pub(crate) async fn ring_at(&mut self, due: Instant) -> Result<()> {
        tokio::time::sleep_until(due.into()).await;
        Ok(())
    }
}
