// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Tiers
internal import Wire

/// Where one connection's client writes chunks by shared memory: a region that both map, cut into
/// reservations. Confined to the connection.
struct StagingArea: ~Copyable {
    /// A reservation that waits for COMMIT.
    struct Pending {
        let put: PutRequest
        let extent: ExtentAllocator.NodeIndex
        let bytes: PinnedBytes
        let expiry: Instant
    }

    private var region: StagingMemory?
    private var extents: ExtentAllocator?
    private var pending: [UInt64: Pending] = [:]
    private var serial: UInt64 = 0

    /// Reservations that wait.
    var count: Int { pending.count }

    /// Bytes of the region.
    var byteCount: Int { region?.bytes.count ?? 0 }

    /// Finds room for `put`, in a new region if need be.
    /// - Returns: the reservation's id and offset, and the descriptor if the region is new; nil
    ///   when there is no room now.
    mutating func reserve(
        _ put: PutRequest, until expiry: Instant, _ node: Node
    ) -> (id: UInt64, offset: Int, newDescriptor: Int32?)? {
        let isNew = ensureRegion(for: put.chunkByteCount, node)
        let granule = Limits.arenaGranuleByteCount
        guard let region, pending.count < Limits.leaseCountPerConnectionMax,
            let extent = extents?.allocate(
                granuleCount: (put.chunkByteCount + granule - 1) / granule, owner: 0)
        else { return nil }
        let offset = (extents?.granules(of: extent).lowerBound ?? 0) * granule
        serial += 1
        pending[serial] = Pending(
            put: put, extent: extent,
            bytes: region.bytes.slice(offset: offset, count: put.chunkByteCount), expiry: expiry)
        return (serial, offset, isNew ? region.descriptor : nil)
    }

    /// Takes a reservation out of the waiting ones unless its time is over; the caller gives its
    /// room back afterwards.
    mutating func take(_ id: UInt64, now: Instant) -> Pending? {
        endExpired(by: now)
        return pending.removeValue(forKey: id)
    }

    /// Gives the room of a taken reservation back.
    mutating func giveBack(_ taken: Pending) {
        extents?.free(taken.extent)
    }

    /// Drops reservations whose time is over.
    mutating func endExpired(by now: Instant) {
        guard !pending.isEmpty else { return }
        for (id, reservation) in pending where reservation.expiry <= now {
            pending[id] = nil
            extents?.free(reservation.extent)
        }
    }

    /// Drops everything.
    mutating func drop(_ node: Node) {
        guard let region else { return }
        pending = [:]
        extents = nil
        node.stagingEnded(byteCount: region.bytes.count)
        self.region = nil
    }

    /// Makes a region if there is none, or a larger one if nobody uses the one there is.
    private mutating func ensureRegion(for chunkByteCount: Int, _ node: Node) -> Bool {
        guard chunkByteCount > byteCount, pending.isEmpty, let memory = node.sharedMemory else {
            return false
        }
        drop(node)
        // Room for a second chunk, so that a client can fill one while another is committed; for
        // this one alone where the budget has no more.
        for wanted in [max(regionByteCountMin, 2 * chunkByteCount), chunkByteCount] {
            let granule = Limits.arenaGranuleByteCount
            let byteCount = (wanted + granule - 1) / granule * granule
            guard node.stagingBegan(byteCount: byteCount) else { continue }
            do throws(IOFault) {
                region = try memory.makeStagingRegion(byteCount)
                extents = ExtentAllocator(
                    granuleCount: byteCount / granule,
                    extentCountMax: min(
                        byteCount / granule, Limits.leaseCountPerConnectionMax))
                return true
            } catch {
                node.stagingEnded(byteCount: byteCount)
            }
        }
        return false
    }
}

/// Where the budget allows it, so that small reservations do not need a region each.
private let regionByteCountMin = 1 << 20
