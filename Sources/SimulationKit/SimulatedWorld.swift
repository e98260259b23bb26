// SPDX-License-Identifier: Apache-2.0

internal import KVCore

/// One seed's world: a scheduler, a network, a disk for each host, and the reactors of the
/// processes in it. Confined to the thread that makes it.
package final class SimulatedWorld {
    package let scheduler: SimulatedScheduler
    package let network: SimulatedNetwork
    package private(set) var reactors: [SimulatedReactor] = []
    private var disks: [String: SimulatedDisk] = [:]
    private let diskFaults: DiskFaults

    package init(
        seed: UInt64, network faults: NetworkFaults = NetworkFaults(),
        disk diskFaults: DiskFaults = DiskFaults()
    ) {
        scheduler = SimulatedScheduler(seed: seed)
        network = SimulatedNetwork(scheduler: scheduler, faults: faults)
        self.diskFaults = diskFaults
    }

    /// A process on `host`; processes of one host share its disk and are not partitioned.
    package func makeReactor(on host: String) -> SimulatedReactor {
        let reactor = SimulatedReactor(
            world: self, host: host, disk: disk(of: host), index: reactors.count)
        reactors.append(reactor)
        return reactor
    }

    /// The disk of `host`, which outlives its processes.
    package func disk(of host: String) -> SimulatedDisk {
        if let disk = disks[host] { return disk }
        let disk = SimulatedDisk(scheduler: scheduler, faults: diskFaults)
        disks[host] = disk
        return disk
    }

    /// Cuts the power of `host`: peers learn of it late or not at all, and of the writes that were
    /// not synchronized an arbitrary part is on the disk. The tasks there unwind with `.cancelled`,
    /// unable to do anything to the world. Make new reactors on the same host to start again.
    package func crash(_ host: String) {
        let disk = disk(of: host)
        disk.keepWritesUnderWay()
        for reactor in reactors where reactor.host == host { reactor.vanish() }
        disk.crash()
    }

    /// Stops all reactors and runs their tasks to the end; throws when one does not end.
    package func end() throws(SimulationFailure) {
        for reactor in reactors { reactor.stop() }
        try scheduler.runUntilQuiescent()
        for reactor in reactors where !reactor.isIdle {
            throw scheduler.failure("a task of reactor \(reactor.index) did not end after stop()")
        }
    }
}
