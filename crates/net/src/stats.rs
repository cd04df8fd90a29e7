//! Counters by protocol, under the names that `/proc/net/snmp`, `/proc/net/snmp6` and `/proc/net/netstat` give them (RFC 4293, 4022, 4113).

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name {
            $(#[doc = concat!("`", $label, "`")] pub $field: u64,)*
        }

        impl $name {
            /// Linux's names and the values, in Linux's order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($label, self.$field),)*].into_iter()
            }
        }
    };
}

counters! {
    /// `Ip:`, and `Ip6` with the same meaning.
    IpCounters {
        in_receives = "InReceives", in_header_errors = "InHdrErrors", in_address_errors = "InAddrErrors",
        forwarded = "ForwDatagrams", in_unknown_protocols = "InUnknownProtos", in_discards = "InDiscards", in_delivers = "InDelivers",
        out_requests = "OutRequests", out_discards = "OutDiscards", out_no_routes = "OutNoRoutes", reassembly_timeouts = "ReasmTimeout",
        reassembly_required = "ReasmReqds", reassembled = "ReasmOKs", reassembly_failures = "ReasmFails", fragmented = "FragOKs",
        fragment_failures = "FragFails", fragments_created = "FragCreates", out_transmits = "OutTransmits",
        in_no_routes = "InNoRoutes", in_truncated = "InTruncatedPkts", in_multicast = "InMcastPkts", out_multicast = "OutMcastPkts",
        in_broadcast = "InBcastPkts", out_broadcast = "OutBcastPkts", in_bytes = "InOctets", out_bytes = "OutOctets",
        in_checksum_errors = "InCsumErrors", in_too_big = "InTooBigErrors",
    }
}

counters! {
    /// `Icmp:` and `Icmp6`.
    IcmpCounters {
        in_messages = "InMsgs", in_errors = "InErrors", in_checksum_errors = "InCsumErrors", in_unreachable = "InDestUnreachs",
        in_time_exceeded = "InTimeExcds", in_parameter = "InParmProbs", in_too_big = "InPktTooBigs", in_redirects = "InRedirects",
        in_echos = "InEchos", in_echo_replies = "InEchoReps", out_messages = "OutMsgs", out_errors = "OutErrors",
        out_rate_limited = "OutRateLimitGlobal", out_unreachable = "OutDestUnreachs", out_time_exceeded = "OutTimeExcds",
        out_parameter = "OutParmProbs", out_too_big = "OutPktTooBigs", out_redirects = "OutRedirects", out_echos = "OutEchos",
        out_echo_replies = "OutEchoReps",
    }
}

counters! {
    /// `Udp:` and `Udp6`.
    UdpCounters {
        in_datagrams = "InDatagrams", no_ports = "NoPorts", in_errors = "InErrors", out_datagrams = "OutDatagrams",
        receive_buffer_errors = "RcvbufErrors", send_buffer_errors = "SndbufErrors", in_checksum_errors = "InCsumErrors",
        ignored_multicast = "IgnoredMulti",
    }
}

counters! {
    /// `Tcp:` and the parts of `TcpExt:` that this stack counts.
    TcpCounters {
        active_opens = "ActiveOpens", passive_opens = "PassiveOpens", attempt_fails = "AttemptFails", established_resets = "EstabResets",
        in_segments = "InSegs", out_segments = "OutSegs", retransmitted = "RetransSegs", in_errors = "InErrs", out_resets = "OutRsts",
        in_checksum_errors = "InCsumErrors", syn_cookies_sent = "SyncookiesSent", syn_cookies_received = "SyncookiesRecv",
        syn_cookies_failed = "SyncookiesFailed", paws_rejected = "PAWSEstab", delayed_acks = "DelayedACKs", listen_overflows = "ListenOverflows",
        listen_drops = "ListenDrops", time_waits = "TW", time_waits_recycled = "TWRecycled", sack_recovery = "TCPSackRecovery",
        reno_recovery = "TCPRenoRecovery", lost_retransmit = "TCPLostRetransmit", fast_retransmits = "TCPFastRetrans",
        loss_probes = "TCPLossProbes", loss_probe_recovery = "TCPLossProbeRecovery", timeouts = "TCPTimeouts",
        spurious_rtos = "TCPSpuriousRTOs", dsack_sent = "TCPDSACKOldSent", dsack_received = "TCPDSACKRecv", dsack_undo = "TCPDSACKUndo",
        out_of_order = "TCPOFOQueue", out_of_order_pruned = "OfoPruned", receive_pruned = "TCPRcvQDrop", zero_window_sent = "TCPToZeroWindowAdv",
        window_probes = "TCPWinProbe", keepalives = "TCPKeepAlive", challenge_acks = "TCPChallengeACK", abort_on_data = "TCPAbortOnData",
        abort_on_close = "TCPAbortOnClose", abort_on_timeout = "TCPAbortOnTimeout", abort_on_linger = "TCPAbortOnLinger",
        request_queue_drops = "TCPReqQFullDrop", request_queue_cookies = "TCPReqQFullDoCookies", duplicate_segments = "TCPDupSegs",
    }
}

/// Every protocol's counters; index 0 of the pairs is IPv4, 1 IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// IPv4 and IPv6.
    pub ip: [IpCounters; 2],
    /// ICMP and ICMPv6.
    pub icmp: [IcmpCounters; 2],
    /// UDP over each.
    pub udp: [UdpCounters; 2],
    /// TCP over both.
    pub tcp: TcpCounters,
}
