// SPDX-License-Identifier: Apache-2.0
import KVCore
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

private func coverage(
    _ segments: [SSDSegment], isDirectoryMissing: Bool = false
) -> [SSDSegment.Coverage] {
    SSDSegment.coverage(segments, isDirectoryMissing: isDirectoryMissing)
}

@Suite struct `A checkpoint` {
    @Test func `covers what is complete`() {
        let segments = [
            segment(.sealed, 1..<10), segment(.erasing, 10..<20), segment(.stuck, 20..<30),
            segment(.free, 0..<0), segment(.removed, 5..<9), segment(.open, 30..<30),
        ]
        #expect(coverage(segments) == [.all, .all, .all, .none, .none, .none])
        #expect(coverage([]) == [])
        #expect(coverage([segment(.sealed, 1..<UInt64(1) << 62)]) == [.all])
    }

    @Test func `leaves the notes to be read that may delete a chunk which is found by reading`() {
        // The open segment of one directory is older than what another has sealed since.
        let segments = [
            segment(.sealed, 1..<10), segment(.open, 10..<10, directory: 1),
            segment(.sealed, 10..<40), segment(.sealed, 5..<11), segment(.open, 40..<40),
        ]
        #expect(coverage(segments) == [.all, .none, .chunks, .chunks, .none])
    }

    @Test func `leaves all notes to be read that may bear on what could not be read`() {
        let segments = [
            segment(.sealed, 1..<10), segment(.unknown, 10..<20), segment(.sealed, 20..<30),
        ]
        #expect(coverage(segments) == [.all, .none, .chunks])
        let complete = [segment(.sealed, 1..<10), segment(.sealed, 10..<20)]
        #expect(coverage(complete, isDirectoryMissing: true) == [.chunks, .chunks])
    }

    @Test func `leaves a segment to be read that may hold other than the index says`() {
        var segments = [
            segment(.sealed, 1..<10), segment(.erasing, 10..<20), segment(.sealed, 20..<30),
        ]
        segments[1].hasUnindexedRecords = true
        #expect(coverage(segments) == [.all, .none, .chunks])
        segments[1].hasUnindexedRecords = false
        segments[1].lacksFooter = true
        #expect(coverage(segments) == [.all, .none, .chunks])
    }

    @Test(arguments: [(false, false), (true, false), (true, true)])
    func `says so in its list of segments`(isSealed: Bool, hasLateNotes: Bool) {
        let segment = CheckpointSegment(
            directory: SSDTag(.opaque), slot: 7, isSealed: isSealed, hasLateNotes: hasLateNotes,
            serial: 9)
        let row = OwnedBytes(count: CheckpointLayout.segmentByteCount)
        segment.encode(into: row.bytes)
        #expect(CheckpointSegment(row.bytes) == segment)
        row.bytes.store(UInt32(3), at: 20)
        #expect(!CheckpointSegment(row.bytes).isSealed)
    }
}
