//! AF_XDP sockets: UMEM, rings and frames, as types that cannot be misused. All of the data plane's dealings with raw
//! frames are in this file; what it hands out is safe.
//!
//! A [`Frame`] is a token for one chunk of the UMEM. It cannot be copied: whoever holds it is the only one, the kernel
//! included, that touches the chunk. It moves into a fill or transmit ring and comes back from a receive or completion
//! ring. See Documentation/networking/af_xdp.rst in the kernel.
#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ffi::CString;
use std::io;
use std::num::NonZeroU32;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig, XDP_UMEM_MIN_CHUNK_SIZE,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue};

/// Size of a chunk: a page, the largest the kernel takes.
pub const FRAME_SIZE: u32 = 4096;
/// Bytes the kernel keeps free in front of a received frame (XDP_PACKET_HEADROOM).
const HEADROOM: usize = 256;
/// Longest frame that can be received, with 32 bytes of room made by the XDP program, and sent again with a tag.
pub const MAX_FRAME: usize = FRAME_SIZE as usize - HEADROOM;
/// Entries of every ring.
pub const RING_SIZE: u32 = 2048;
/// Frames a copy-mode transmit syscall shall take; the kernel's own default is 32.
const TX_BUDGET: u32 = 512;
/// `XDP_MAX_TX_SKB_BUDGET` of linux/if_xdp.h, since 6.17.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

const _: () = assert!(FRAME_SIZE >= XDP_UMEM_MIN_CHUNK_SIZE);

/// Exclusive use of one chunk of a UMEM.
#[repr(transparent)]
pub struct Frame(FrameDesc);

impl Frame {
    /// Length of the packet in the frame.
    #[inline]
    pub fn length(&self) -> usize {
        self.0.lengths().data()
    }

    /// Which chunk this is: 0 to the number of frames.
    #[inline]
    pub fn chunk(&self) -> usize {
        self.0.addr() / FRAME_SIZE as usize
    }

    fn descriptors(frames: &[Frame]) -> &[FrameDesc] {
        // SAFETY: Frame is repr(transparent) over FrameDesc.
        unsafe { std::slice::from_raw_parts(frames.as_ptr().cast::<FrameDesc>(), frames.len()) }
    }
}

/// Packet memory of one worker, shared by the sockets of all its interfaces.
pub struct Umem {
    umem: xsk_rs::Umem,
    /// The descriptor every chunk started with, to get back those that a closed socket's rings took along.
    originals: Vec<FrameDesc>,
}

impl Umem {
    /// Allocates `frames` chunks. Returns one token for each.
    pub fn new(frames: NonZeroU32) -> io::Result<(Self, Vec<Frame>)> {
        let rings = QueueSize::new(RING_SIZE).expect("a power of two");
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(FRAME_SIZE).expect("at least the kernel's minimum"))
            .fill_queue_size(rings)
            .comp_queue_size(rings)
            .build()
            .expect("the frame size is a power of two and larger than the headroom");
        let (umem, originals) = xsk_rs::Umem::new(config, frames, false).map_err(|error| {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            io::Error::other(format!("{error}{source}"))
        })?;
        let tokens = originals.iter().map(|descriptor| Frame(*descriptor)).collect();
        Ok((Self { umem, originals }, tokens))
    }

    /// A second handle, for the main thread to bind sockets with. It has no tokens.
    pub fn share(&self) -> Self {
        Self { umem: self.umem.clone(), originals: self.originals.clone() }
    }

    /// The bytes from the packet's start to the end of its chunk.
    #[inline]
    pub fn bytes<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        // SAFETY: the token is exclusive and of this worker's only UMEM; its descriptor came from that UMEM, so that it
        // lies within it.
        let data = unsafe { self.umem.data_mut(&mut frame.0) };
        let length = FRAME_SIZE as usize - data.contents().as_ptr() as usize % FRAME_SIZE as usize;
        let start = data.contents().as_ptr().cast_mut();
        // SAFETY: the UMEM is page-aligned and chunks are pages, so `length` bytes from the packet's start end with its
        // chunk; borrowed as long as the token.
        unsafe { std::slice::from_raw_parts_mut(start, length) }
    }

    /// Sets the length of the packet in the frame.
    #[inline]
    pub fn set_length(&self, frame: &mut Frame, length: usize) {
        // SAFETY: as in `bytes`.
        let mut data = unsafe { self.umem.data_mut(&mut frame.0) };
        data.cursor().set_pos(length);
    }
}

/// How a socket exchanges frames with the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BindMode {
    /// The driver reads and writes the UMEM.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

impl BindMode {
    /// The name used in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zerocopy",
            Self::Copy => "copy",
        }
    }
}

/// Frames the kernel had to drop between the XDP program and the receive ring, and other trouble of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SocketStatistics {
    /// Received frames lost to a full ring or the lack of a frame to receive into.
    pub lost: u64,
    /// Descriptors the kernel refused: a defect of ours.
    pub invalid: u64,
}

/// The AF_XDP socket of one receive queue of one interface.
pub struct XskSocket {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// Frames in the transmit ring or with the driver.
    outstanding: u32,
    /// By chunk: whether its token was given up to this socket's rings.
    in_rings: Vec<bool>,
    scratch: Vec<FrameDesc>,
}

impl XskSocket {
    /// Binds to `queue` of interface `name`. The XDP program is ours to attach; libxdp's is not loaded.
    pub fn bind(umem: &Umem, name: &str, queue: u32, mode: BindMode) -> io::Result<Self> {
        let interface = CString::new(name).map_err(io::Error::other)?;
        let rings = QueueSize::new(RING_SIZE).expect("a power of two");
        let flags = match mode {
            BindMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
            BindMode::Copy => BindFlags::XDP_COPY,
        };
        let config = SocketConfig::builder()
            .rx_queue_size(rings)
            .tx_queue_size(rings)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flags | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        // SAFETY: libxdp loads no program (the flag above), which is what the contract asks for.
        let sockets = unsafe { Socket::new(config, &umem.umem, &Interface::new(interface), queue) };
        let (tx, rx, rings) = sockets.map_err(|error| {
            match std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>()) {
                Some(source) => io::Error::new(source.kind(), source.to_string()),
                None => io::Error::other(error.to_string()),
            }
        })?;
        let (fill, completion) =
            rings.ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, "this queue is bound already"))?;
        let socket = Self {
            rx,
            tx,
            fill,
            completion,
            outstanding: 0,
            in_rings: vec![false; umem.originals.len()],
            scratch: vec![FrameDesc::default(); RING_SIZE as usize],
        };
        socket.raise_tx_budget();
        Ok(socket)
    }

    /// Lets one transmit syscall take more frames, where the kernel can; without it they take more calls.
    fn raise_tx_budget(&self) {
        // SAFETY: a plain setsockopt with a 4-byte value that outlives the call.
        unsafe {
            libc::setsockopt(
                self.rx.fd().as_raw_fd(),
                libc::SOL_XDP,
                XDP_MAX_TX_SKB_BUDGET,
                std::ptr::from_ref(&TX_BUDGET).cast(),
                size_of::<u32>() as libc::socklen_t,
            );
        }
    }

    /// How frames are exchanged. A socket on a UMEM that others share inherits their mode, whatever was asked for.
    pub fn mode(&self) -> io::Result<BindMode> {
        const XDP_OPTIONS_ZEROCOPY: u32 = 1;
        let mut options = 0u32;
        let mut length = size_of::<u32>() as libc::socklen_t;
        // SAFETY: XDP_OPTIONS writes a struct xdp_options, one u32; both locals outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.rx.fd().as_raw_fd(),
                libc::SOL_XDP,
                libc::XDP_OPTIONS,
                std::ptr::from_mut(&mut options).cast(),
                &mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(if options & XDP_OPTIONS_ZEROCOPY != 0 { BindMode::ZeroCopy } else { BindMode::Copy })
    }

    /// Takes up to `limit` received frames.
    #[inline]
    pub fn receive(&mut self, frames: &mut Vec<Frame>, limit: usize) -> usize {
        // SAFETY: the ring gives out descriptors of the UMEM the socket was bound with.
        let count = unsafe { self.rx.consume(&mut self.scratch[..limit]) };
        take_back(&self.scratch[..count], &mut self.in_rings, frames);
        count
    }

    /// Gives the kernel frames to receive into: up to `limit` of `free`, as the ring has room.
    #[inline]
    pub fn fill(&mut self, free: &mut Vec<Frame>, limit: usize) -> usize {
        let room = self.fill.nb_free(RING_SIZE) as usize;
        let count = room.min(limit).min(free.len());
        let from = free.len() - count;
        // SAFETY: the tokens are of the socket's UMEM and are given up below.
        let produced = unsafe { self.fill.produce(Frame::descriptors(&free[from..])) };
        debug_assert_eq!(produced, count, "the ring has room");
        for frame in free.drain(free.len() - produced..) {
            self.in_rings[frame.chunk()] = true;
        }
        produced
    }

    /// Queues frames to be sent, as many as the ring takes, from the front. They are sent by [`XskSocket::flush`].
    #[inline]
    pub fn transmit(&mut self, frames: &mut Vec<Frame>) -> usize {
        let room = self.tx.nb_free(RING_SIZE) as usize;
        let count = room.min(frames.len());
        // SAFETY: the tokens are of the socket's UMEM and are given up below.
        let produced = unsafe { self.tx.produce(Frame::descriptors(&frames[..count])) };
        for frame in frames.drain(..produced) {
            self.in_rings[frame.chunk()] = true;
        }
        self.outstanding += produced as u32;
        produced
    }

    /// Tells the kernel to send what is queued. Needed as long as [`XskSocket::has_queued`].
    #[inline]
    pub fn flush(&mut self) -> io::Result<()> {
        let mut queued = RING_SIZE - self.tx.nb_free(RING_SIZE).min(RING_SIZE);
        while queued > 0 && self.tx.needs_wakeup() {
            self.tx.wakeup()?;
            let left = RING_SIZE - self.tx.nb_free(RING_SIZE).min(RING_SIZE);
            if left >= queued || left == 0 {
                break;
            }
            queued = left;
        }
        Ok(())
    }

    /// Takes back frames that were sent.
    #[inline]
    pub fn reclaim(&mut self, free: &mut Vec<Frame>) -> usize {
        if self.outstanding == 0 {
            return 0;
        }
        // SAFETY: the ring gives out descriptors of the UMEM the socket was bound with, each one sent by `transmit`.
        let count = unsafe { self.completion.consume(&mut self.scratch) };
        take_back(&self.scratch[..count], &mut self.in_rings, free);
        self.outstanding -= count as u32;
        count
    }

    /// Frames that can be queued to be sent.
    #[inline]
    pub fn transmit_room(&mut self) -> usize {
        self.tx.nb_free(RING_SIZE) as usize
    }

    /// Whether frames are queued that the kernel has not taken yet.
    #[inline]
    pub fn has_queued(&mut self) -> bool {
        self.tx.nb_free(RING_SIZE) < RING_SIZE
    }

    /// Frames on their way out.
    #[inline]
    pub fn outstanding(&self) -> usize {
        self.outstanding as usize
    }

    /// Wakes a driver that ran out of frames to receive into.
    #[inline]
    pub fn wake_fill(&mut self) -> io::Result<()> {
        if self.fill.needs_wakeup() {
            self.fill.wakeup(self.rx.fd_mut(), 0)?;
        }
        Ok(())
    }

    /// Trouble so far.
    pub fn statistics(&self) -> io::Result<SocketStatistics> {
        let statistics = self.rx.fd().xdp_statistics()?;
        Ok(SocketStatistics {
            // rx_fill_ring_empty counts wake-ups, not frames; rx_dropped has the frames in copy mode.
            lost: statistics.rx_dropped() + statistics.rx_ring_full(),
            invalid: statistics.rx_invalid_descs() + statistics.tx_invalid_descs(),
        })
    }

    /// Closes the socket and takes back the frames in its rings. What was queued to be sent may be lost.
    pub fn close(self, umem: &Umem, free: &mut Vec<Frame>) {
        let Self { rx, tx, fill, completion, in_rings, .. } = self;
        // With the last of these the kernel begins to let go of the rings and of the UMEM's chunks. A driver may use them a
        // little longer: the caller keeps the frames aside for a while.
        drop((rx, tx, fill, completion));
        let lost = umem.originals.iter().zip(in_rings).filter(|(_, in_rings)| *in_rings);
        free.extend(lost.map(|(descriptor, _)| Frame(*descriptor)));
    }

    /// The socket's number, for `XSKS`.
    pub fn raw_fd(&self) -> i32 {
        self.rx.fd().as_raw_fd()
    }
}

/// Turns descriptors that a ring gave back into tokens.
#[inline]
fn take_back(descriptors: &[FrameDesc], in_rings: &mut [bool], frames: &mut Vec<Frame>) {
    frames.extend(descriptors.iter().map(|descriptor| {
        let frame = Frame(*descriptor);
        in_rings[frame.chunk()] = false;
        frame
    }));
}

impl AsFd for XskSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket stays open as long as its queues, which `self` owns.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }
}
