//! The C interface of libkqueue 2, a kqueue in user space, for tests of the kqueue backend on Linux: what the libc
//! crate has for the BSDs, under the same names. See `build.rs`.
//!
//! libkqueue is a shared library over epoll. Functions of libc are replaced here, for it and the whole program: two
//! because what it does with them loses errors and events, one to see what it makes.

#![allow(non_camel_case_types)]

use libc::{
    c_int, c_short, c_uint, c_ushort, c_void, epoll_event, intptr_t, sigset_t, socklen_t, timespec, uintptr_t,
};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::Mutex;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct kevent {
    pub ident: uintptr_t,
    pub filter: c_short,
    pub flags: c_ushort,
    pub fflags: c_uint,
    pub data: intptr_t,
    pub udata: *mut c_void,
}

pub const EVFILT_READ: c_short = -1;
pub const EVFILT_WRITE: c_short = -2;
pub const EVFILT_PROC: c_short = -5;
pub const EVFILT_SIGNAL: c_short = -6;
pub const EVFILT_USER: c_short = -11;

pub const EV_ADD: c_ushort = 0x0001;
pub const EV_DELETE: c_ushort = 0x0002;
pub const EV_CLEAR: c_ushort = 0x0020;
pub const EV_RECEIPT: c_ushort = 0x0040;
pub const EV_ERROR: c_ushort = 0x4000;
pub const EV_EOF: c_ushort = 0x8000;

pub const NOTE_TRIGGER: c_uint = 0x0100_0000;
pub const NOTE_EXIT: c_uint = 0x8000_0000;

mod real {
    use super::*;

    unsafe extern "C" {
        pub fn kqueue() -> c_int;
        pub fn kevent(
            kq: c_int,
            changelist: *const kevent,
            nchanges: c_int,
            eventlist: *mut kevent,
            nevents: c_int,
            timeout: *const timespec,
        ) -> c_int;
    }

    // It ends a thread of its own by cancelling it in here, which unwinds.
    unsafe extern "C-unwind" {
        pub fn epoll_pwait(
            epoll: c_int,
            events: *mut epoll_event,
            max: c_int,
            timeout: c_int,
            mask: *const sigset_t,
        ) -> c_int;
    }
}

thread_local! {
    /// Is this thread in kevent?
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// While this thread is in kqueue: the first epoll descriptor that was made there, or -1.
    static MADE: Cell<Option<c_int>> = const { Cell::new(None) };
}

/// Of each kqueue, the epoll descriptor inside.
static EPOLLS: Mutex<BTreeMap<c_int, c_int>> = Mutex::new(BTreeMap::new());

pub unsafe fn kqueue() -> c_int {
    MADE.set(Some(-1));
    // SAFETY: no pointers.
    let kqueue = unsafe { real::kqueue() };
    let epoll = MADE.take();
    if let (0.., Some(epoll)) = (kqueue, epoll) {
        EPOLLS.lock().unwrap().insert(kqueue, epoll);
    }
    kqueue
}

/// What is readable when `kqueue` has events: its own descriptor, a pipe, is not.
pub fn pollable(kqueue: BorrowedFd<'_>) -> BorrowedFd<'_> {
    let epoll = EPOLLS.lock().unwrap()[&kqueue.as_raw_fd()];
    // SAFETY: libkqueue closes it after the kqueue, which is borrowed as long.
    unsafe { BorrowedFd::borrow_raw(epoll) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_create1(flags: c_int) -> c_int {
    // SAFETY: no pointers.
    let epoll = unsafe { libc::syscall(libc::SYS_epoll_create1, flags) as c_int };
    if MADE.get() == Some(-1) {
        MADE.set(Some(epoll));
    }
    epoll
}

/// kevent(2), with the pointers that it asks for, and no EBADF.
pub unsafe fn kevent(
    kq: c_int,
    changelist: *const kevent,
    nchanges: c_int,
    eventlist: *mut kevent,
    nevents: c_int,
    timeout: *const timespec,
) -> c_int {
    INSIDE.set(true);
    // SAFETY: the pointers are the caller's, who has those that kevent asks for.
    let n = unsafe { real::kevent(kq, changelist, nchanges, eventlist, nevents, timeout) };
    INSIDE.set(false);
    // SAFETY: it points to this thread's errno, which lives as long as the thread.
    let errno = unsafe { &mut *libc::__errno_location() };
    if n == -1 && *errno == libc::EBADF {
        // So it interrupts all threads that wait when the process exits. (What is no kqueue is ENOENT to it.)
        *errno = libc::EINTR;
    }
    n
}

/// To tell of a socket's error in an event, libkqueue takes it from the socket, and whoever hears of the event looks
/// for it in vain. Here it learns that there is one, and the error stays.
#[unsafe(no_mangle)]
unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    if INSIDE.get() && (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR) {
        // SAFETY: libkqueue asks, and has room for what the kernel would write: an int.
        unsafe { value.cast::<c_int>().write(libc::EIO) };
        return 0;
    }
    // SAFETY: the same call with the same pointers.
    unsafe { libc::syscall(libc::SYS_getsockopt, fd, level, name, value, len) as c_int }
}

/// libkqueue has room for 512 events, and asks epoll for as many. If a descriptor is ready in both directions, one
/// becomes two; those for which there is no room then are lost.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn epoll_wait(
    epoll: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
) -> c_int {
    // SAFETY: `events` has room for `max`, and for fewer; there is no mask.
    unsafe { real::epoll_pwait(epoll, events, max.min(256), timeout, ptr::null()) }
}
