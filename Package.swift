// swift-tools-version: 6.3
// SPDX-License-Identifier: Apache-2.0
//
// Imports point down: a target may import only what its row lists, and the build enforces it
// (`--explicit-target-dependency-import-check error`, see dev/check).
import PackageDescription

let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
]

let argumentParser = Target.Dependency.product(
    name: "ArgumentParser", package: "swift-argument-parser")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let yams = Target.Dependency.product(name: "Yams", package: "Yams")

/// A Swift target of ours: strict settings, sources in `Sources/<name>`.
func module(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: strict)
}

/// An executable of ours, with the same settings as a module.
func executable(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .executableTarget(name: name, dependencies: dependencies, swiftSettings: strict)
}

/// The tests of one module, in `Tests/<name>`.
func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(name: name, dependencies: dependencies, swiftSettings: strict)
}

let package = Package(
    name: "kvstore",
    products: [
        .executable(name: "kvstored", targets: ["KVStoreDaemon"]),
        .executable(name: "kvctl", targets: ["kvctl"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        // C: doorways only, no policy. System headers are included in .c files alone.
        .target(name: "CLinux", linkerSettings: [.linkedLibrary("uring")]),
        .target(name: "CKernels", linkerSettings: [.linkedLibrary("xxhash")]),
        .target(name: "COpenSSL", linkerSettings: [.linkedLibrary("crypto")]),
        .target(name: "CZstd", linkerSettings: [.linkedLibrary("zstd")]),
        // The C client library that engines link; also built alone by dev/build-libkvstore.
        .target(name: "CKVStore", dependencies: ["CKernels", "COpenSSL"]),

        // Ground.
        module("KVCore", []),

        // Mechanisms.
        module("Kernels", ["KVCore", "CKernels", "COpenSSL"]),
        module("LinuxIO", ["KVCore", "CLinux"]),
        module("Wire", ["KVCore", "Kernels"]),
        module("Settings", ["KVCore", yams]),
        module("Telemetry", ["KVCore", "CLinux", logging]),

        // Domain.
        module("Codec", ["KVCore", "Kernels", "CZstd"]),
        module("Tiers", ["KVCore", "Kernels", "Codec"]),
        module("KVClient", ["KVCore", "Kernels", "Codec", "Wire"]),

        // Composition.
        module(
            "Node",
            ["KVCore", "Kernels", "Wire", "Tiers", "Codec", "Telemetry", "LinuxIO", logging]),
        module(
            "SimulationKit",
            ["KVCore", "Codec", "Wire", "Node", "KVClient", "Tiers", "Telemetry", logging]),

        // The codec behind C functions; linked by dev/build-libkvstore, which takes of CKVStore the
        // declarations alone.
        module("CodecLibrary", ["KVCore", "Codec", "CKVStore"]),

        // Executables.
        executable(
            "KVStoreDaemon",
            ["KVCore", "Codec", "Node", "LinuxIO", "Tiers", "Settings", "Telemetry", logging]),
        executable(
            "kvctl",
            [
                "KVCore", "Kernels", "Codec", "KVClient", "Wire", "LinuxIO", "Settings", "Tiers",
                argumentParser,
            ]),

        // Test programs: the allocation probe replaces malloc, so it has an executable of its own.
        .target(name: "CAllocationProbe", path: "Benchmarks/AllocationProbe"),
        .executableTarget(
            name: "allocation-gate",
            dependencies: [
                "CAllocationProbe", "KVClient", "KVCore", "LinuxIO", "Node", "Telemetry", "Tiers",
                "Wire",
                logging,
            ],
            path: "Benchmarks/AllocationGate", swiftSettings: strict),

        executable("kvsim", ["SimulationKit"]),

        tests("KVCoreTests", ["KVCore"]),
        tests("KernelsTests", ["Kernels", "KVCore"]),
        tests("LinuxIOTests", ["LinuxIO", "KVCore"]),
        tests("WireTests", ["Wire", "KVCore", "Kernels"]),
        tests("SettingsTests", ["Settings", "KVCore"]),
        tests("TelemetryTests", ["Telemetry", logging]),
        tests("CodecTests", ["Codec", "KVCore", "Kernels"]),
        tests("TiersTests", ["Tiers", "KVCore", "Codec", "Kernels", "LinuxIO"]),
        tests("KVClientTests", ["KVClient", "LinuxIO", "KVCore", "Wire", "Kernels"]),
        tests("CodecLibraryTests", ["CodecLibrary", "CKVStore"]),
        tests("CKVStoreTests", ["CKVStore", "KVCore", "Kernels", "Wire"]),
        tests(
            "NodeTests",
            [
                "Node", "Codec", "KVClient", "LinuxIO", "KVCore", "Wire", "Tiers", "Kernels",
                "Telemetry", logging,
            ]),
        tests("SimulationTests", ["SimulationKit", "KVCore", "Node", "KVClient", "Wire", "Tiers"]),
        tests("IntegrationTests", ["KVClient", "LinuxIO", "KVCore", "Wire", "Kernels"]),
        tests("TidyTests", []),
    ],
    cLanguageStandard: .gnu11
)
