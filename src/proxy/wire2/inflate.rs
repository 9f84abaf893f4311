//! Reads header blocks (RFC 7541, section 6).

use super::super::seen::Seen;
use super::super::wire1::Scratch;
use super::Code;
use super::again::{Again, Run, is_header};
use super::field::{Field, Name, OVERHEAD};
use super::head::Head;
use super::number::Reader;
use super::table::{Entry, Table};
use http::{HeaderMap, request, response};

/// Why a block is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Refused {
    /// It cannot be decoded: the connection is over.
    Connection(Code),
    /// The message is malformed: its stream is over. The block was decoded whole.
    Stream(Code),
    /// The message is larger than the limit. The block was decoded whole.
    TooLarge,
}

/// What a peer's header blocks mean, by those that came before.
#[derive(Debug)]
pub(in crate::proxy) struct Inflate {
    table: Table,
    again: Again,
}

impl Inflate {
    /// `table_size`: what the peer was told that its table may take, in bytes. Below 4096 the peer is given 4096.
    pub(in crate::proxy) fn new(table_size: usize) -> Self {
        Self { table: Table::new(table_size), again: Again::default() }
    }

    /// A request's head. Its fields may take `limit` bytes, each with its name, its value and 32 more.
    pub(in crate::proxy) fn request(
        &mut self,
        block: &[u8],
        limit: usize,
        scratch: &Scratch,
    ) -> Result<(request::Parts, Seen), Refused> {
        self.message(block, limit, scratch, Head::request)
    }

    /// A response's head, an informational one's too.
    pub(in crate::proxy) fn response(
        &mut self,
        block: &[u8],
        limit: usize,
        scratch: &Scratch,
    ) -> Result<(response::Parts, Seen), Refused> {
        self.message(block, limit, scratch, Head::response)
    }

    pub(in crate::proxy) fn trailers(
        &mut self,
        block: &[u8],
        limit: usize,
        scratch: &Scratch,
    ) -> Result<HeaderMap, Refused> {
        self.message(block, limit, scratch, Head::trailers)
    }

    /// Reads a block of a stream that is gone, for what it changes in the table.
    pub(in crate::proxy) fn skip(&mut self, block: &[u8]) -> Result<(), Code> {
        self.read(block, &mut Head::unwanted(), &Scratch::default())
    }

    #[inline]
    fn message<T>(
        &mut self,
        block: &[u8],
        limit: usize,
        scratch: &Scratch,
        finish: impl FnOnce(Head) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let mut head = Head::new(limit);
        let read = self.read(block, &mut head, scratch).map_err(Refused::Connection);
        if let Err(refused) = read.and_then(|()| head.checked()) {
            scratch.recycle_map(head.headers);
            return Err(refused);
        }
        finish(head)
    }

    fn read(&mut self, block: &[u8], head: &mut Head, scratch: &Scratch) -> Result<(), Code> {
        // For what is Huffman-coded; most blocks hold nothing of that.
        let mut buffer = Vec::new();
        let read = self.fields(block, head, scratch, &mut buffer);
        if buffer.capacity() > 0 {
            scratch.recycle(buffer);
        }
        read.ok_or(Code::COMPRESSION_ERROR)
    }

    fn fields(&mut self, block: &[u8], head: &mut Head, scratch: &Scratch, buffer: &mut Vec<u8>) -> Option<()> {
        let mut reader = Reader(block);
        let mut first = true;
        loop {
            let here = reader.0;
            let Some(byte) = reader.byte() else { return Some(()) };
            match byte {
                0x80.. => {
                    let entry = self.table.get(reader.number(byte, 7)?)?;
                    if head.begins() && is_header(&entry.field) {
                        reader.0 = self.headers(here, head, scratch)?;
                    } else {
                        head.make_ready(&entry.field, scratch);
                        head.add(entry);
                    }
                }
                0x20..0x40 => {
                    let size = reader.number(byte, 5)?;
                    // Only before all fields.
                    self.table.resize(size).filter(|()| first)?;
                    continue;
                }
                _ => {
                    if buffer.capacity() == 0 {
                        *buffer = scratch.buffer();
                    }
                    self.literal(byte, &mut reader, head, buffer, scratch)?;
                }
            }
            first = false;
        }
    }

    /// Reads the run with which the headers begin, or its first field; what is left of the block.
    fn headers<'a>(&mut self, block: &'a [u8], head: &mut Head, scratch: &Scratch) -> Option<&'a [u8]> {
        let length = match self.again.look(&self.table, block) {
            Run::Known(length, made) => {
                head.adopt(made);
                return block.get(length..);
            }
            Run::Keep(length) => length,
            Run::New => 0,
        };
        let (mut reader, before) = (Reader(block), head.size);
        for _ in 0..length.max(1) {
            let byte = reader.byte()?;
            let entry = self.table.get(reader.number(byte, 7)?)?;
            head.make_ready(&entry.field, scratch);
            head.add(entry);
        }
        if length > 0 {
            self.again.keep(head, head.size - before);
        }
        Some(reader.0)
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// A field that is said in letters, which the table may take in.
    fn literal(
        &mut self,
        byte: u8,
        reader: &mut Reader<'_>,
        head: &mut Head,
        buffer: &mut Vec<u8>,
        scratch: &Scratch,
    ) -> Option<()> {
        let kept = byte & 0x40 != 0;
        let index = reader.number(byte, if kept { 6 } else { 4 })?;
        let name = match index {
            0 => Name::new(reader.string(buffer)?),
            _ => self.table.get(index)?.field.name(),
        };
        let value = reader.string(buffer)?;
        let size = name.len() + value.len() + OVERHEAD;
        let entry = Entry { field: Field::new(name, value, byte & 0x10 != 0 && !kept), size };
        head.make_ready(&entry.field, scratch);
        if !kept {
            head.put(entry);
        } else if let Some(entry) = self.table.insert(entry) {
            head.put(entry);
        } else {
            head.add(self.table.newest()?);
        }
        Some(())
    }
}
