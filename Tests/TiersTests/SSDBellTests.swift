// SPDX-License-Identifier: Apache-2.0
import Synchronization
import Testing

@testable import Tiers

@Suite struct `The SSD store's bell` {
    @Test func `costs the same however often it was rung`() {
        let bell = SSDBell()
        let ringCount = Mutex(0)
        bell.onRing { ringCount.withLock { $0 += 1 } }
        // Were each ring one call deeper than the one before, the stack would end here.
        for _ in 0..<100_000 {
            bell.want()
            bell.ring()
        }
        #expect(ringCount.withLock { $0 } == 100_000)
    }

    @Test func `rings only while the store sleeps`() {
        let bell = SSDBell()
        let ringCount = Mutex(0)
        bell.onRing { ringCount.withLock { $0 += 1 } }
        bell.ring()
        bell.want()
        bell.ring()
        bell.ring()
        #expect(ringCount.withLock { $0 } == 1)
    }
}
