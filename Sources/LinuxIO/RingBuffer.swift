// SPDX-License-Identifier: Apache-2.0

/// A first-in-first-out queue of trivial values that grows by doubling and never shrinks.
///
/// Confined to its owner. Allocates only while it grows past the most elements ever held.
@safe
struct RingBuffer<Element>: ~Copyable {
    // SAFETY: room for `mask + 1` elements, allocated in `init` and `grow`, freed in `deinit`.
    private var elements: UnsafeMutablePointer<Element>
    private var mask: Int
    private var head = 0
    private(set) var count = 0

    /// - Parameter capacity: a power of two.
    init(capacity: Int) {
        precondition(capacity > 0 && capacity & (capacity - 1) == 0, "a power of two")
        unsafe elements = .allocate(capacity: capacity)
        mask = capacity - 1
    }

    deinit {
        // SAFETY: the live elements are those from `head` on; the memory is ours.
        for offset in 0..<count {
            unsafe (elements + ((head + offset) & mask)).deinitialize(count: 1)
        }
        unsafe elements.deallocate()
    }

    mutating func append(_ element: consuming Element) {
        if count > mask { grow() }
        // SAFETY: `count <= mask`, so the place after the last element is free.
        unsafe (elements + ((head + count) & mask)).initialize(to: element)
        count += 1
    }

    mutating func popFirst() -> Element? {
        guard count > 0 else { return nil }
        // SAFETY: `head` is the place of a live element, which moves out.
        let element = unsafe (elements + head).move()
        head = (head + 1) & mask
        count -= 1
        return element
    }

    private mutating func grow() {
        let capacity = (mask + 1) * 2
        let grown = UnsafeMutablePointer<Element>.allocate(capacity: capacity)
        for offset in 0..<count {
            // SAFETY: moves each live element to its place in the larger memory.
            unsafe (grown + offset).initialize(to: (elements + ((head + offset) & mask)).move())
        }
        // SAFETY: all elements moved out.
        unsafe elements.deallocate()
        unsafe elements = grown
        mask = capacity - 1
        head = 0
    }
}
