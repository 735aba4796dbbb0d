//! The encoding of foca's messages: postcard, with the one identity refused that may not be a member.

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, PostcardCodec};
use proto::ids::NodeId;

use crate::identity::Id;

/// Why a message is not understood.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error(transparent)]
    Postcard(#[from] postcard::Error),
    #[error("node 0 is nobody")]
    Nobody,
}

/// foca's own encoding; node 0 stands for *anybody* as an addressee and may not be anybody else.
pub struct CheckedCodec;

impl Codec<Id> for CheckedCodec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Id>, buffer: impl BufMut) -> Result<(), CodecError> {
        Ok(PostcardCodec.encode_header(header, buffer)?)
    }

    fn decode_header(&mut self, buffer: impl Buf) -> Result<Header<Id>, CodecError> {
        let header = <PostcardCodec as Codec<Id>>::decode_header(&mut PostcardCodec, buffer)?;
        somebody(header.src.node).map(|()| header)
    }

    fn encode_member(&mut self, member: &Member<Id>, buffer: impl BufMut) -> Result<(), CodecError> {
        Ok(PostcardCodec.encode_member(member, buffer)?)
    }

    fn decode_member(&mut self, buffer: impl Buf) -> Result<Member<Id>, CodecError> {
        let member = <PostcardCodec as Codec<Id>>::decode_member(&mut PostcardCodec, buffer)?;
        somebody(member.id().node).map(|()| member)
    }
}

fn somebody(node: NodeId) -> Result<(), CodecError> {
    if node.0 == 0 { Err(CodecError::Nobody) } else { Ok(()) }
}
