// SPDX-License-Identifier: Apache-2.0

/// Everything the daemon counts or measures, declared once. STAT and the docs use these names.
///
/// Names are lower-case with underscores and end in their unit where they have one
/// (docs/protocol.md, STAT). None carries a label, so their number is fixed.
package enum Metric: Int, CaseIterable, Sendable {
    case startTime, uptime
    case memoryBudget, memoryUsed, chunks, hugePages, shards
    case connectionsAccepted, connectionsOpen, connectionsRefused, connectionsDropped
    case bytesReceived, bytesSent
    case requestsHello, requestsPing, requestsPut, requestsGet, requestsLookup, requestsDelete
    case requestsStat, requestsLease, requestsRelease, requestsReserve, requestsCommit
    case requestsAbort, requestsPin, requestsControl, requestsOther
    case requestsRESP, requestsLM, namesMismatched, readLeasesRefused
    case hits, misses, lookupHits, lookupMisses
    case putsStored, putsDuplicate, putsStoredBytes
    case chunksEvicted, chunksExpired, chunksDeleted
    case answersBusy, answersTooLarge, answersMalformed, answersUnauthorized, answersDeadline
    case answersInternal
    case leasesGranted, leasesReleased, leasesExpired, leasesOpen
    case reservationsOpen, holdsOpen, stagingUsed, processCPU
    case checksumMismatches
    case ssdHits, ssdChunks, ssdChunkBytes, ssdSegments, ssdSegmentsFree, ssdPins
    case ssdChunksEvicted, ssdChunksExpired, ssdChunksMoved, ssdChunksSkipped
    case ssdRecordsWritten, ssdPayloadWritten, ssdWritten, ssdRead, ssdScrubbed
    case ssdReadFaults, ssdWriteFaults, ssdChecksumMismatches
    case ssdDirectoriesFailed, ssdForeignFiles, ssdNotesWaiting
    case codecZstdIn, codecZstdOut, codecLosslessIn, codecLosslessOut
    case codecCachegenIn, codecCachegenOut, codecScalarIn, codecScalarOut
    case codecPredictiveIn, codecPredictiveOut
    case codecDecodes, codecDecodedBytes, codecCuts, codecWaiting
    case codecQueueFull, codecLate, codecNoRoom, codecNoGain
    case codecLayoutsUnknown, codecProfilesMissing, codecProfilesTooLarge
    case codecPositionsUnknown
    case codecFaults, codecQuarantined
    case logLinesDropped

    /// A counter only rises while the daemon runs; a gauge is set to what is.
    package enum Kind: String, Sendable {
        case counter, gauge
    }

    /// What a metric is called and means.
    package struct Facts: Sendable {
        package let kind: Kind
        package let name: String
        package let help: String

        static func counter(_ name: String, _ help: String) -> Facts {
            Facts(kind: .counter, name: name, help: help)
        }

        static func gauge(_ name: String, _ help: String) -> Facts {
            Facts(kind: .gauge, name: name, help: help)
        }
    }

    /// The declaration of each; one line, so that the list reads as a table.
    package var facts: Facts {
        switch self {
        case .startTime: .gauge("start_time_seconds", "Start, in seconds since 1970.")
        case .uptime: .gauge("uptime_milliseconds", "Time since start.")
        case .memoryBudget: .gauge("memory_budget_bytes", "Chunk memory, as configured.")
        case .memoryUsed: .gauge("memory_used_bytes", "Chunk memory in use.")
        case .chunks: .gauge("chunks", "Chunks held.")
        case .hugePages: .gauge("huge_pages", "1 when chunk memory has huge pages, else 0.")
        case .shards: .gauge("shards", "Data threads.")
        case .connectionsAccepted: .counter("connections_accepted", "Accepted since start.")
        case .connectionsOpen: .gauge("connections_open", "Open now.")
        case .connectionsRefused: .counter("connections_refused", "Closed: too many were open.")
        case .connectionsDropped: .counter("connections_dropped", "Closed for a peer's fault.")
        case .bytesReceived: .counter("received_bytes", "From clients, headers included.")
        case .bytesSent: .counter("sent_bytes", "To clients, headers included.")
        case .requestsHello: .counter("requests_hello", "HELLO requests.")
        case .requestsPing: .counter("requests_ping", "PING requests.")
        case .requestsPut: .counter("requests_put", "PUT requests.")
        case .requestsGet: .counter("requests_get", "GET requests.")
        case .requestsLookup: .counter("requests_lookup", "LOOKUP requests.")
        case .requestsDelete: .counter("requests_delete", "DELETE requests.")
        case .requestsStat: .counter("requests_stat", "STAT requests.")
        case .requestsLease: .counter("requests_lease", "LEASE requests.")
        case .requestsRelease: .counter("requests_release", "RELEASE requests.")
        case .requestsReserve: .counter("requests_reserve", "RESERVE requests.")
        case .requestsCommit: .counter("requests_commit", "COMMIT requests.")
        case .requestsAbort: .counter("requests_abort", "ABORT requests.")
        case .requestsPin: .counter("requests_pin", "PIN and UNPIN requests.")
        case .requestsControl: .counter("requests_control", "CONTROL requests.")
        case .requestsOther: .counter("requests_other", "Requests with any other verb.")
        case .requestsRESP: .counter("requests_resp", "Requests of the RESP listener.")
        case .requestsLM: .counter("requests_lm", "Requests of the lm listener.")
        case .namesMismatched: .counter("names_mismatched", "Chunks under another's name.")
        case .readLeasesRefused: .counter("read_leases_refused", "EXISTS said 0 for want of room.")
        case .hits: .counter("hits", "Keys that GET and LEASE found.")
        case .misses: .counter("misses", "Keys that GET and LEASE did not find.")
        case .lookupHits: .counter("lookup_hits", "Keys that LOOKUP found.")
        case .lookupMisses: .counter("lookup_misses", "Keys that LOOKUP did not find.")
        case .putsStored: .counter("puts_stored", "Chunks stored, by PUT or COMMIT.")
        case .putsDuplicate: .counter("puts_duplicate", "Chunks that were there already.")
        case .putsStoredBytes: .counter("puts_stored_bytes", "Bytes of the chunks stored.")
        case .chunksEvicted: .counter("chunks_evicted", "Chunks that made room for others.")
        case .chunksExpired: .counter("chunks_expired", "Chunks past their time to live.")
        case .chunksDeleted: .counter("chunks_deleted", "Chunks that clients deleted.")
        case .answersBusy: .counter("answers_busy", "Requests refused for lack of room.")
        case .answersTooLarge: .counter("answers_too_large", "Values over the chunk limit.")
        case .answersMalformed: .counter("answers_malformed", "Frames that break the protocol.")
        case .answersUnauthorized: .counter("answers_unauthorized", "HELLOs refused.")
        case .answersDeadline: .counter("answers_deadline", "Requests past their deadline.")
        case .answersInternal: .counter("answers_internal", "Defects; each has a log line.")
        case .leasesGranted: .counter("leases_granted", "Leases granted.")
        case .leasesReleased: .counter("leases_released", "Leases that their holder gave back.")
        case .leasesExpired: .counter("leases_expired", "Leases that ran out of time.")
        case .leasesOpen: .gauge("leases_open", "Leases held now.")
        case .reservationsOpen: .gauge("reservations_open", "Chunks being written now.")
        case .holdsOpen: .gauge("holds_open", "Readers and leases of chunks now.")
        case .stagingUsed: .gauge("staging_bytes", "Memory for local writers.")
        case .processCPU: .gauge("process_cpu_microseconds", "CPU time of the process.")
        case .checksumMismatches: .counter("checksum_mismatches", "Payloads that were damaged.")
        case .ssdHits: .counter("ssd_hits", "Chunks that were read from SSD for a request.")
        case .ssdChunks: .gauge("ssd_chunks", "Chunks on SSD.")
        case .ssdChunkBytes: .gauge("ssd_chunk_bytes", "Bytes of the chunks on SSD.")
        case .ssdSegments: .gauge("ssd_segments", "Segments, in all directories.")
        case .ssdSegmentsFree: .gauge("ssd_segments_free", "Segments that are empty.")
        case .ssdPins: .gauge("ssd_pins", "Pins that a restart remembers.")
        case .ssdChunksEvicted: .counter("ssd_chunks_evicted", "Chunks that reclaim dropped.")
        case .ssdChunksExpired: .counter("ssd_chunks_expired", "Chunks past their time to live.")
        case .ssdChunksMoved: .counter("ssd_chunks_moved", "Chunks that reclaim wrote again.")
        case .ssdChunksSkipped: .counter("ssd_chunks_skipped", "Chunks that were not written.")
        case .ssdRecordsWritten: .counter("ssd_records_written", "Records of new chunks.")
        case .ssdPayloadWritten: .counter("ssd_payload_written_bytes", "Bytes of new chunks.")
        case .ssdWritten: .counter("ssd_written_bytes", "All bytes written to SSD.")
        case .ssdRead: .counter("ssd_read_bytes", "Bytes read from SSD for requests.")
        case .ssdScrubbed: .counter("ssd_scrubbed_bytes", "Bytes that the scrub checked.")
        case .ssdReadFaults: .counter("ssd_read_faults", "Reads that failed.")
        case .ssdWriteFaults: .counter("ssd_write_faults", "Writes that failed.")
        case .ssdChecksumMismatches:
            .counter("ssd_checksum_mismatches", "Records that were found damaged.")
        case .ssdDirectoriesFailed: .gauge("ssd_directories_failed", "Directories out of use.")
        case .ssdForeignFiles: .gauge("ssd_foreign_files", "Segment files left alone.")
        case .ssdNotesWaiting: .gauge("ssd_notes_waiting", "Deletions and pins not durable yet.")
        case .codecZstdIn: .counter("codec_zstd_in_bytes", "Chunks encoded by zstd alone.")
        case .codecZstdOut: .counter("codec_zstd_out_bytes", "What they became.")
        case .codecLosslessIn: .counter("codec_lossless_in_bytes", "Chunks encoded losslessly.")
        case .codecLosslessOut: .counter("codec_lossless_out_bytes", "What they became.")
        case .codecCachegenIn:
            .counter("codec_cachegen_in_bytes", "Chunks quantised without a profile.")
        case .codecCachegenOut: .counter("codec_cachegen_out_bytes", "What they became.")
        case .codecScalarIn: .counter("codec_scalar_in_bytes", "Chunks quantised by a profile.")
        case .codecScalarOut: .counter("codec_scalar_out_bytes", "What they became.")
        case .codecPredictiveIn: .counter("codec_predictive_in_bytes", "Chunks predicted.")
        case .codecPredictiveOut: .counter("codec_predictive_out_bytes", "What they became.")
        case .codecDecodes: .counter("codec_decodes", "Chunks decoded for requests.")
        case .codecDecodedBytes: .counter("codec_decoded_bytes", "What they decoded to.")
        case .codecCuts: .counter("codec_cuts", "Embedded containers cut for requests.")
        case .codecWaiting: .gauge("codec_waiting", "Chunks that wait for a codec thread.")
        case .codecQueueFull: .counter("codec_queue_full", "Not coded: too many were waiting.")
        case .codecLate: .counter("codec_late", "Not coded: it was not done in time.")
        case .codecNoRoom: .counter("codec_no_room", "Not coded: no memory for the result.")
        case .codecNoGain: .counter("codec_no_gain", "Not coded: it became no smaller.")
        case .codecLayoutsUnknown:
            .counter("codec_layouts_unknown", "Coded as opaque bytes: nobody described them.")
        case .codecProfilesMissing:
            .counter("codec_profiles_missing", "Containers whose profile is not at hand.")
        case .codecProfilesTooLarge:
            .counter("codec_profiles_too_large", "Profiles that codec.profile_memory forbids.")
        case .codecPositionsUnknown:
            .counter("codec_positions_unknown", "Coded without their profile: no position.")
        case .codecFaults: .counter("codec_faults", "Containers that could not be decoded.")
        case .codecQuarantined: .counter("codec_quarantined", "Chunks deleted because of that.")
        case .logLinesDropped: .counter("log_lines_dropped", "Log lines lost to a full buffer.")
        }
    }
}
