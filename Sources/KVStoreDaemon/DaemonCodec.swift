// SPDX-License-Identifier: Apache-2.0
import Codec
import KVCore
import LinuxIO
import Node
import Settings

/// The daemon's threads for the codec: those that requests wait for, and those that nobody waits
/// for.
final class DaemonCodec {
    let workers: CodecWorkers
    private let pools: [WorkerPool]

    init(_ settings: DaemonSettings) throws(StartFault) {
        var options = WorkerPool.Options()
        options.threadCount = settings.codecWorkerCount
        options.waitingCountMax = settings.codec.waitingCount
        do throws(IOFault) {
            options.name = "kvs-codec"
            let requests = try WorkerPool(options)
            guard settings.encodesDemotions else {
                pools = [requests]
                workers = CodecWorkers(requests: requests, background: requests)
                return
            }
            options.name = "kvs-encode"
            options.niceness = 19
            let background = try WorkerPool(options)
            pools = [requests, background]
            workers = CodecWorkers(requests: requests, background: background)
        } catch {
            throw StartFault(
                message: "no threads for the codec (\(error)): lower codec.workers")
        }
    }

    /// Ends the threads; nobody needs them any more.
    func stop() {
        for pool in pools { pool.stop() }
        for pool in pools { pool.join() }
    }
}

extension DaemonSettings.Codec.Demotion {
    var level: Level {
        switch self {
        case .raw: .raw
        case .zstd: .zstd
        case .lossless: .lossless
        case .q1: .fine
        case .q2: .standard
        case .q3: .coarse
        case .q4: .coarsest
        }
    }
}
