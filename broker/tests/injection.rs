//! System calls made by another process against its will: with ptrace(2), at a system-call instruction of its own. So the
//! sandbox of the very binary is tested, and no probe is part of it.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::null_mut;

/// An argument.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    Number(u64),
    /// A pointer to these bytes, in the other process.
    Bytes(&'static [u8]),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The call returned that.
    Returned(i64),
    /// The process was killed by that signal.
    Killed(i32),
}

impl Outcome {
    pub fn errno(self) -> Option<i32> {
        match self {
            Self::Returned(value @ -4095..0) => i32::try_from(-value).ok(),
            _ => None,
        }
    }

    pub fn succeeded(self) -> bool {
        matches!(self, Self::Returned(0..))
    }
}

fn ptrace(request: libc::c_uint, pid: i32, address: u64, data: *mut c_void) {
    // SAFETY: the callers pass data that fits the request.
    let result = unsafe { libc::ptrace(request, pid, address as *mut c_void, data) };
    assert_eq!(
        result,
        0,
        "ptrace({request}): {}",
        std::io::Error::last_os_error()
    );
}

/// Waits until it is stopped, or dead. Who is dead is left for its parent to collect.
fn wait(pid: i32) -> Outcome {
    // SAFETY: the structure is plain numbers, and the call fills it.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let what = libc::WEXITED | libc::WSTOPPED | libc::__WALL | libc::WNOWAIT;
    // SAFETY: the structure is a live variable.
    let result = unsafe { libc::waitid(libc::P_PID, pid.cast_unsigned(), &raw mut info, what) };
    assert_eq!(result, 0, "waitid: {}", std::io::Error::last_os_error());
    // SAFETY: waitid has filled this part.
    let status = unsafe { info.si_status() };
    if matches!(
        info.si_code,
        libc::CLD_KILLED | libc::CLD_DUMPED | libc::CLD_EXITED
    ) {
        return Outcome::Killed(status);
    }
    // SAFETY: nothing is written.
    unsafe { libc::waitpid(pid, null_mut(), libc::__WALL) };
    Outcome::Returned(0)
}

/// Another process, stopped.
pub struct Stopped {
    pid: i32,
    alive: bool,
}

impl Stopped {
    /// Stops a process. The calling thread must make all calls.
    pub fn new(pid: i32) -> Self {
        ptrace(libc::PTRACE_SEIZE, pid, 0, null_mut());
        ptrace(libc::PTRACE_INTERRUPT, pid, 0, null_mut());
        assert_eq!(wait(pid), Outcome::Returned(0), "it is dead");
        Self { pid, alive: true }
    }

    /// Makes it make one system call.
    #[cfg(target_arch = "x86_64")]
    pub fn call(&mut self, number: libc::c_long, arguments: &[Argument]) -> Outcome {
        // SAFETY: the structure is plain numbers.
        let mut saved: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETREGS, self.pid, 0, (&raw mut saved).cast());
        let mut regs = saved;
        regs.rip -= 2;
        assert_eq!(
            self.peek(regs.rip) & 0xffff,
            0x050f,
            "not at a system-call instruction"
        );
        regs.orig_rax = u64::MAX;
        regs.rax = number.cast_unsigned();
        let mut free = (saved.rsp - 16384) & !15;
        let mut values = [0; 6];
        for (value, argument) in values.iter_mut().zip(arguments) {
            *value = match argument {
                Argument::Number(number) => *number,
                Argument::Bytes(bytes) => {
                    let at = free;
                    self.poke(at, bytes);
                    free += (bytes.len() as u64 + 16) & !15;
                    at
                }
            };
        }
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = values;
        ptrace(libc::PTRACE_SETREGS, self.pid, 0, (&raw mut regs).cast());
        ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, null_mut());
        let outcome = wait(self.pid);
        if outcome != Outcome::Returned(0) {
            self.alive = false;
            return outcome;
        }
        ptrace(libc::PTRACE_GETREGS, self.pid, 0, (&raw mut regs).cast());
        let returned = regs.rax.cast_signed();
        ptrace(libc::PTRACE_SETREGS, self.pid, 0, (&raw mut saved).cast());
        Outcome::Returned(returned)
    }

    fn peek(&self, address: u64) -> u64 {
        let mut word: u64 = 0;
        let mut local = libc::iovec {
            iov_base: (&raw mut word).cast(),
            iov_len: 8,
        };
        let remote = libc::iovec {
            iov_base: address as *mut c_void,
            iov_len: 8,
        };
        // SAFETY: the local side is one live word.
        let read =
            unsafe { libc::process_vm_readv(self.pid, &raw mut local, 1, &raw const remote, 1, 0) };
        assert_eq!(read, 8, "{}", std::io::Error::last_os_error());
        word
    }

    fn poke(&self, address: u64, bytes: &[u8]) {
        let local = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let remote = libc::iovec {
            iov_base: address as *mut c_void,
            iov_len: bytes.len(),
        };
        // SAFETY: the local side is only read.
        let wrote = unsafe {
            libc::process_vm_writev(self.pid, &raw const local, 1, &raw const remote, 1, 0)
        };
        assert_eq!(
            wrote,
            bytes.len().cast_signed(),
            "{}",
            std::io::Error::last_os_error()
        );
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.alive {
            // SAFETY: there are no pointers. A process that has just been killed is no longer there to be let go.
            unsafe {
                libc::ptrace(
                    libc::PTRACE_DETACH,
                    self.pid,
                    null_mut::<c_void>(),
                    null_mut::<c_void>(),
                )
            };
        }
    }
}
