//! Bytes that wait, in memory that is given back when they are gone.

/// Bytes in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    /// How many of them are gone already.
    gone: usize,
}

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - self.gone
    }

    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.reserve_exact(bytes.len()); // twice as much would be beyond the bounds that others keep
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes bytes off the front.
    pub fn advance(&mut self, count: usize) {
        self.gone += count;
        if self.gone >= self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Moves as many bytes as there is room for into `into`; returns how many.
    pub fn take(&mut self, into: &mut [u8]) -> usize {
        let count = self.len().min(into.len());
        into[..count].copy_from_slice(&self.rest()[..count]);
        self.advance(count);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_and_the_memory_with_them() {
        let mut queue = Queue::default();
        queue.push(b"abc");
        queue.push(b"de");
        let mut two = [0; 2];
        assert_eq!((queue.take(&mut two), &two), (2, b"ab"));
        queue.advance(1);
        assert_eq!(queue.rest(), b"de");
        assert_eq!(
            (queue.take(&mut [0; 9]), queue.is_empty(), queue.bytes.capacity()),
            (2, true, 0)
        );
    }
}
