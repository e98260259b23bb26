// SPDX-License-Identifier: Apache-2.0

/// Why a container was not decoded, or not made: the faults of docs/container-format.md, section
/// 14, and two of the caller's memory. A value.
package enum CodecFault: String, Error, Hashable, Sendable, CaseIterable {
    /// Fewer bytes than header and directory, or than the directory says.
    case truncated
    /// The bytes are no container, or no profile.
    case magic
    /// Header and directory are damaged.
    case checksum
    /// Made by a later release.
    case version
    /// A field of the header is out of range.
    case header
    /// An entry of the directory breaks a rule.
    case directory
    /// There are bytes behind the last section.
    case length
    /// A section is damaged.
    case sectionChecksum = "section-checksum"
    /// A section's content contradicts itself, the layout or its length.
    case section
    /// The layout's description is not canonical, not the one that is named, or does not fit.
    case layout
    /// The container names a profile that is not at hand.
    case profileMissing = "profile-missing"
    /// The profile is of another model, or lacks the level.
    case profileUnsuitable = "profile-unsuitable"
    /// The profile's own bytes are wrong.
    case profileDamaged = "profile-damaged"
    /// The target is too small for what would be written.
    case targetTooSmall = "target-too-small"
    /// A section has more values than the workspace was made for.
    case workspaceTooSmall = "workspace-too-small"
}
