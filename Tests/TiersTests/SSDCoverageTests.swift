// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Tiers

private func segment(
    _ state: SSDSegment.State, _ sequences: Range<UInt64>, directory: Int = 0
) -> SSDSegment {
    var segment = SSDSegment(directory: directory, fileSlot: 0, state: state)
    segment.firstSequence = sequences.lowerBound
    segment.nextSequence = sequences.upperBound
    return segment
}

private func covered(_ segments: [SSDSegment], isDirectoryMissing: Bool = false) -> [Bool] {
    SSDSegment.covered(segments, isDirectoryMissing: isDirectoryMissing)
}

@Suite struct `A checkpoint` {
    @Test func `covers what is complete`() {
        let segments = [
            segment(.sealed, 1..<10), segment(.erasing, 10..<20), segment(.stuck, 20..<30),
            segment(.free, 0..<0), segment(.removed, 5..<9), segment(.open, 30..<30),
        ]
        #expect(covered(segments) == [true, true, true, false, false, false])
        #expect(covered([]) == [])
        #expect(covered([segment(.sealed, 1..<UInt64(1) << 62)]) == [true])
    }

    @Test func `does not cover what may delete a chunk that is found by reading`() {
        // The open segment of one directory is older than what another has sealed since.
        let segments = [
            segment(.sealed, 1..<10), segment(.open, 10..<10, directory: 1),
            segment(.sealed, 10..<40), segment(.sealed, 5..<11), segment(.open, 40..<40),
        ]
        #expect(covered(segments) == [true, false, false, false, false])
    }

    @Test func `covers nothing that may bear on what could not be read`() {
        let segments = [
            segment(.sealed, 1..<10), segment(.unknown, 10..<20), segment(.sealed, 20..<30),
        ]
        #expect(covered(segments) == [true, false, false])
        let complete = [segment(.sealed, 1..<10), segment(.sealed, 10..<20)]
        #expect(covered(complete, isDirectoryMissing: true) == [false, false])
    }
}
