"""Load made from recorded OpenStack sessions: fresh ids, hosts and times, in any shipper's shape, with the truth."""
