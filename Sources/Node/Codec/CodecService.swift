// SPDX-License-Identifier: Apache-2.0
package import Codec
package import KVCore
internal import Kernels
internal import Synchronization
internal import Telemetry
internal import Tiers

/// The threads that encode and decode. A value.
package struct CodecWorkers: Sendable {
    /// What requests wait for.
    package let requests: any Workers
    /// What nobody waits for: chunks on their way to SSD.
    package let background: any Workers

    package init(requests: any Workers, background: any Workers) {
        self.requests = requests
        self.background = background
    }
}

/// What a node is told about its codec. A value.
package struct CodecConfiguration: Sendable {
    /// The level at which chunks are written to SSD.
    package var demotion = Level.raw
    /// Namespaces whose chunks are never encoded: their front doors look into the bytes.
    package var rawNamespaces: Set<NamespaceID> = []
    /// Values of the largest section that is encoded as a tensor: what a thread needs memory for
    /// (`CodecWorkspace.byteCountPerValue`).
    package var sectionValueCountMax = 1 << 20
    /// Memory for profiles.
    package var profileByteCountMax = 32 << 20

    package init() {}
}

/// The codec of a node: who works, what is known of layouts and models, what levels cost. Any
/// thread.
package final class CodecService: Sendable {
    package let configuration: CodecConfiguration
    /// Nil: nobody encodes or decodes here.
    private let workers: CodecWorkers?
    let metrics: Metrics
    let catalog: CodecCatalog
    let workspaces: WorkspacePool
    private let costs = Mutex(LevelCosts())

    init(
        _ configuration: CodecConfiguration, _ workers: CodecWorkers?, _ metrics: Metrics,
        secrets: [KeyDerivation?]
    ) {
        self.configuration = configuration
        self.workers = workers
        self.metrics = metrics
        catalog = CodecCatalog(
            secrets: secrets, profileByteCountMax: configuration.profileByteCountMax)
        workspaces = WorkspacePool(valueCountMax: configuration.sectionValueCountMax)
    }

    /// Who waits for a piece of work.
    enum Urgency {
        case request
        case background
    }

    /// Has `work` run on another thread; false, counted, when too much waits.
    func submit(_ urgency: Urgency, _ work: @escaping @Sendable () -> Void) -> Bool {
        let workers = urgency == .request ? workers?.requests : workers?.background
        if let workers, workers.submit(work) { return true }
        metrics.add(.codecQueueFull)
        return false
    }

    /// Pieces of work that have not begun.
    var waitingCount: Int {
        (workers?.requests.waitingCount ?? 0) + (workers?.background.waitingCount ?? 0)
    }

    /// What levels cost of late.
    var levelCosts: LevelCosts { costs.withLock { $0 } }

    func note(_ level: Level, rawByteCount: Int, byteCount: Int, nanoseconds: UInt64) {
        costs.withLock {
            $0.note(
                level, rawByteCount: rawByteCount, byteCount: byteCount, nanoseconds: nanoseconds)
        }
    }
}
