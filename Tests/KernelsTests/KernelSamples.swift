// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore

@testable import Kernels

/// Widths that this machine has; the narrowest is what others are compared with.
let widths = KernelWidth.allCases.filter(\.isAvailable)

/// Numbers that follow from a seed alone (splitmix64).
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    /// A number of a bell-shaped distribution around 0 with deviation 1.
    mutating func normal() -> Float {
        (0..<12).reduce(-6) { sum, _ in sum + Float.random(in: 0..<1, using: &self) }
    }
}

/// A table of a bell of this deviation, in steps; wide ones know all symbols.
func bell(_ deviation: Double) -> SymbolTable {
    let radius = min(127, max(1, Int(4 * deviation)))
    var weights = [Double](repeating: 0, count: 256)
    for symbol in -radius...radius {
        let ratio = Double(symbol) / deviation
        weights[symbol + 128] = exp(-ratio * ratio / 2)
    }
    let known = 2 * radius + 1
    let scale = Double(2_047 - known) / weights.reduce(0, +)
    var frequencies = weights.map { $0 > 0 ? UInt16(1 + $0 * scale) : 0 }
    frequencies[0] = 1
    frequencies[128] += 2_048 - frequencies.reduce(0, +)
    return SymbolTable(frequencies: frequencies)!
}

/// Tables of many spreads, the first of which knows two symbols only and the last all.
let bells = (0..<12).map { bell(0.2 * exp2(Double($0) / 1.4)) }

/// Packed symbols of rows whose columns stand at `positions`.
func pack(_ rows: [[Int8]], positions: [UInt32], pitch: Int) -> OwnedBytes {
    let memory = OwnedBytes(count: max(4, (rows.count + 3) / 4 * pitch * 4))
    for (row, symbols) in rows.enumerated() {
        for (column, symbol) in symbols.enumerated() {
            let place = 4 * (row / 4 * pitch + Int(positions[column])) + row % 4
            memory.bytes.store(symbol, at: place)
        }
    }
    return memory
}

/// The rows of packed symbols.
func unpack(_ packed: PinnedBytes, rowCount: Int, positions: [UInt32], pitch: Int) -> [[Int8]] {
    (0..<rowCount).map { row in
        positions.map { packed.load(Int8.self, at: 4 * (row / 4 * pitch + Int($0)) + row % 4) }
    }
}

/// Memory whose last byte stands in front of a page that cannot be read.
final class GuardedBytes {
    private let mapping: PinnedBytes
    let bytes: PinnedBytes

    init(copyOf content: [UInt8]) {
        let page = 4_096
        let count = (content.count + page - 1) / page * page
        // SAFETY: a fresh mapping of whole pages, unmapped in `deinit` alone.
        let start = unsafe mmap(
            nil, count + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
        unsafe mapping = PinnedBytes(start: start, count: count + page)
        unsafe mprotect(start + count, page, PROT_NONE)
        bytes = mapping.slice(offset: count - content.count, count: content.count)
        for (index, byte) in content.enumerated() { bytes.store(byte, at: index) }
    }

    deinit {
        // SAFETY: mapped in `init`, and nobody uses it past its owner.
        unsafe munmap(mapping.start, mapping.count)
    }
}
